#!/bin/sh
# Ends the ranks of this machine, for good, and waits until they are gone.
set -eu
cd "$(dirname "$0")"
. ./common.sh
if has_systemd; then
    if [ -e "/etc/systemd/system/$INTERFACE.service" ]; then
        as_root systemctl disable --quiet --now "$INTERFACE.service"
    fi
    exit 0
fi
sh status.sh || exit 0
loop=$(cat $state/pid)
ranks=$(cat $state/ranks 2>/dev/null || :)
workers=$(cat "/proc/$ranks/task/"*/children 2>/dev/null || :)
kill -TERM "$loop"
for second in 1 2 3 4 5 6 7 8 9 10; do
    sleep 1
    if ! sh status.sh; then exit 0; fi
done
for pid in $loop $ranks $workers; do # torchrun waits long for others at its end, and is deaf meanwhile
    kill -KILL "$pid" 2>/dev/null || :
done
