#!/bin/sh
# Starts the ranks of this machine for good: again when they fail or the machine reboots, until stop.sh.
# Their output goes to state/log; state/arguments are the words for pipar_rpc.
# `start.sh again` goes on after a reboot, where no systemd does.
set -eu
cd "$(dirname "$0")"
. ./common.sh
if ! has_interface; then
    echo "the VPN is not up: \`up\` first" >&2
    exit 1
fi
mkdir -p $state
rm -f $state/code $state/ranks $state/stopped
if [ "${1-}" != again ]; then
    [ ! -e $state/log ] || mv $state/log $state/log.previous
    rm -f $state/began $state/ended
    : >$state/log
fi
if has_systemd; then
    as_root systemctl enable --quiet "$INTERFACE.service"
    as_root systemctl restart "$INTERFACE.service"
    exit 0
fi
setsid sh "$PWD/loop.sh" </dev/null >>$state/log 2>&1 &
echo $! >$state/pid
for try in 1 2 3 4 5 6 7 8 9 10; do # until it can be seen
    if [ -e $state/code ] || sh status.sh; then exit 0; fi
    sleep 0.5
done
echo "loop.sh has not started" >&2
exit 1
