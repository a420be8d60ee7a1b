#!/bin/sh
# network.sh up|down: opens or closes this machine's part of the VPN and its firewall. Needs root, or sudo.
set -eu
[ "$(id -u)" = 0 ] || exec sudo -n sh "$0" "$@"
cd "$(dirname "$0")"
. ./common.sh

close() {
    if wg show "$INTERFACE" >/dev/null 2>&1; then wg-quick down "$PWD/$INTERFACE.conf"; fi
    if nft list table inet "$INTERFACE" >/dev/null 2>&1; then nft delete table inet "$INTERFACE"; fi
}

case ${1-} in
up)
    close
    if has_interface; then
        echo "vpn.interface=$INTERFACE: this machine has one of that name, which is no VPN" >&2
        exit 1
    fi
    if ip -4 -o addr show to "$SUBNET" | grep -q .; then # the firewall would shut out who is there
        echo "vpn.subnet=$SUBNET: this machine is in such a network already" >&2
        exit 1
    fi
    nft -f "$INTERFACE.nft" # first, so that nothing is open meanwhile
    wg-quick up "$PWD/$INTERFACE.conf"
    ;;
down) close ;;
*)
    echo "usage: network.sh up|down" >&2
    exit 2
    ;;
esac
