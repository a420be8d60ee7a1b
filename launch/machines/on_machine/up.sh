#!/bin/sh
# Brings this machine into the VPN. Where there is systemd, it is left to that, which also does it after a reboot.
set -eu
[ "$(id -u)" = 0 ] || exec sudo -n sh "$0" "$@"
cd "$(dirname "$0")"
. ./common.sh
if has_systemd; then
    install -m 644 "$INTERFACE.service" "$INTERFACE-vpn.service" /etc/systemd/system/
    systemctl daemon-reload
    systemctl enable --quiet "$INTERFACE-vpn.service"
    systemctl restart "$INTERFACE-vpn.service" || {
        systemctl status --no-pager --lines=10 "$INTERFACE-vpn.service" >&2
        systemctl disable --quiet --now "$INTERFACE-vpn.service" # or it would try again and again
        exit 1
    }
else
    sh network.sh up
fi
