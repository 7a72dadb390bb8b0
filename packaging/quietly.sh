#!/usr/bin/env bash
# quietly.sh LOG COMMAND...: runs the command with its output in LOG; shows the end of it on failure.
log=$1
shift
"$@" >"$log" 2>&1 && exit 0
status=$?
echo "failed ($status): $*; the end of $log:" >&2
tail -30 "$log" >&2
exit "$status"
