#!/bin/sh
# network.sh up|down: opens or closes this machine's part of the VPN and its firewall. Needs root, or sudo.
set -eu
[ "$(id -u)" = 0 ] || exec sudo -n sh "$0" "$@"
cd "$(dirname "$0")"
. ./common.sh

close() {
    if ip link show dev "$INTERFACE" >/dev/null 2>&1; then wg-quick down "$PWD/$INTERFACE.conf"; fi
    if nft list table inet "$INTERFACE" >/dev/null 2>&1; then nft delete table inet "$INTERFACE"; fi
}

case ${1-} in
up)
    close
    nft -f "$INTERFACE.nft" # first, so that nothing is open meanwhile
    wg-quick up "$PWD/$INTERFACE.conf"
    ;;
down) close ;;
*)
    echo "usage: network.sh up|down" >&2
    exit 2
    ;;
esac
