#!/bin/sh
# Ends the ranks, takes this machine out of the VPN, and its units out of systemd.
set -eu
[ "$(id -u)" = 0 ] || exec sudo -n sh "$0" "$@"
cd "$(dirname "$0")"
. ./common.sh
sh stop.sh
if has_systemd && [ -e "/etc/systemd/system/$INTERFACE-vpn.service" ]; then
    systemctl disable --quiet --now "$INTERFACE-vpn.service"
    rm -f "/etc/systemd/system/$INTERFACE.service" "/etc/systemd/system/$INTERFACE-vpn.service"
    systemctl daemon-reload
    systemctl reset-failed "$INTERFACE.service" "$INTERFACE-vpn.service" 2>/dev/null || : # or their names stay
fi
sh network.sh down # where there is no systemd; nothing is left of it otherwise
