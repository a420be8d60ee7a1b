#!/bin/sh
# Ends the ranks of this machine, for good, and waits until they are gone.
set -eu
cd "$(dirname "$0")"
. ./common.sh

wait_for_start() { # a start goes on when its ssh was killed, and would come after us; it holds the lock
    for try in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        if [ ! -e $state/lock ] || flock -n $state/lock true; then return; fi
        if ! has_systemd && sh status.sh; then return; fi # loop.sh keeps it
        sleep 1
    done
}

end_loop() {
    loop=$(cat $state/pid)
    ranks=$(cat $state/ranks 2>/dev/null || :)
    workers=$(cat "/proc/$ranks/task/"*/children 2>/dev/null || :)
    kill -TERM "$loop"
    for second in 1 2 3 4 5 6 7 8 9 10; do
        sleep 1
        if ! sh status.sh; then return; fi
    done
    for pid in $loop $ranks $workers; do # torchrun waits long for others at its end, and is deaf meanwhile
        kill -KILL "$pid" 2>/dev/null || :
    done
}

wait_for_start
runs=''
if sh status.sh; then
    runs=yes
    [ ! -d $state ] || : >$state/stopped # rather than failed; systemd may run a unit of another folder's plan
fi
if ! has_systemd; then
    [ -z "$runs" ] || end_loop
elif [ -e "/etc/systemd/system/$INTERFACE.service" ]; then
    as_root systemctl disable --quiet --now "$INTERFACE.service"
fi
