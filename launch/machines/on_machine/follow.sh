#!/bin/sh
# Prints the log of this machine's ranks from line $1 on, until they have ended for good or nobody reads it.
# Ends with torchrun's code; 143: stop.sh has ended them; 254: they are gone without a code.
cd "$(dirname "$0")" || exit 1
. ./common.sh
[ -e $state/log ] || exit 254
exec 3<&0
tail -n "+$1" -F $state/log 2>/dev/null &
tail=$!
(
    cat <&3
    kill -TERM $$ # the other end of the input is closed
) >/dev/null 2>&1 &
reader=$!
trap 'kill "$tail" "$reader" 2>/dev/null' EXIT
trap 'exit 255' TERM
while sh status.sh; do sleep 1; done
sleep 1 # for the last lines
if [ -e $state/stopped ]; then exit 143; fi
code=$(cat $state/code 2>/dev/null)
case $code in
*[!0-9]*) exit 137 ;; # the name of a signal, as systemd gives it
*) exit "${code:-254}" ;;
esac
