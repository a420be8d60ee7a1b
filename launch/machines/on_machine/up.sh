#!/bin/sh
# Brings this machine into the VPN. Where there is systemd, it is left to that, which also does it after a reboot.
set -eu
[ "$(id -u)" = 0 ] || exec sudo -n sh "$0" "$@"
cd "$(dirname "$0")"
. ./common.sh

folder_of() {
    sed -n 's/^WorkingDirectory=//p' "$1"
}

if has_systemd; then
    installed=/etc/systemd/system/$INTERFACE.service
    if [ -e "$installed" ] && [ "$(folder_of "$installed")" != "$(folder_of "$INTERFACE.service")" ]; then
        echo "the plan in $(folder_of "$installed") is up here: \`sh plan/down.sh\` in that folder first" >&2
        exit 1
    fi
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
