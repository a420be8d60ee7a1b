#!/bin/sh
# Stands for systemd where there is none: does what the unit says, but for starting after a reboot.
cd "$(dirname "$0")" || exit 1
. ./common.sh
ended='' failures=0 code=143
trap 'ended=yes; kill -TERM "$ranks" 2>/dev/null' TERM
while [ -z "$ended" ]; do
    began=$(date +%s)
    sh run.sh 9>&- & # the lock of `run` is for the loop alone
    ranks=$!
    echo "$ranks" >$state/ranks
    wait "$ranks"
    code=$?
    while kill -0 "$ranks" 2>/dev/null; do # a signal has ended the waiting
        wait "$ranks"
        code=$?
    done
    [ -z "$ended" ] && [ "$code" -ne 0 ] || break
    [ "$code" -ge 128 ] || [ "$RESTART_ON_FAILURE" = yes ] || break # from 128 on: killed
    [ $(($(date +%s) - began)) -lt 60 ] || failures=0
    failures=$((failures + 1))
    [ "$failures" -lt 5 ] || break
    sleep 5
done
echo "$code" >$state/code
