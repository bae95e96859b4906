#!/usr/bin/env bash
# dinov3 train for schedulers that start again what fails: a run that was stopped before its end
# (saved, exit code 0) ends with 75 here. A signal reaches it.
#   WORKDIR=DIR launch/until_done.sh --config=FILE.py [--config.KEY=VALUE ...]
set -euo pipefail

WORKDIR=${WORKDIR:?folder of the run, on a file system that all hosts share}
DRY_RUN=${DRY_RUN:-0}

if [[ $DRY_RUN == 1 ]]; then
    printf '%q ' dinov3 train --workdir="$WORKDIR" "$@" && echo
    exit
fi

begun=$(mktemp)
trap 'rm -f "$begun"' EXIT
dinov3 train --workdir="$WORKDIR" "$@" &
run=$!
trap 'kill -TERM "$run"' TERM INT
code=0
wait "$run" || code=$?
while kill -0 "$run" 2>/dev/null; do # a signal ends wait, not the run
    code=0
    wait "$run" || code=$?
done
((code == 0)) || exit "$code"
# The report is the last thing that a run writes, and not after SIGTERM.
[[ $WORKDIR/report.html -nt $begun ]] || exit 75
