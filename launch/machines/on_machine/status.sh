#!/bin/sh
# Ends with 0 if the ranks of this machine run, or are about to be started again.
cd "$(dirname "$0")" || exit 1
. ./common.sh

is_enabled() {
    [ "$(systemd_says UnitFileState "$INTERFACE.service")" = enabled ]
}

if has_systemd; then
    if [ "$(systemd_says SystemState)" = stopping ]; then # what has ended is started again after the reboot
        is_enabled
        exit
    fi
    case $(systemd_says ActiveState "$INTERFACE.service") in
    active | activating | reloading | deactivating) exit 0 ;;
    inactive) # also after a reboot, until systemd has come to it
        [ ! -e $state/ended ] || exit 1
        is_enabled || exit 1
        began=$(systemd_says ExecMainStartTimestampMonotonic "$INTERFACE.service")
        [ "$began" = 0 ]
        exit
        ;;
    *) exit 1 ;;
    esac
fi
pid=$(cat $state/pid 2>/dev/null) || exit 1
tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -q "$PWD/loop.sh" # and no later process of that number
