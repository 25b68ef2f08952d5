#!/bin/sh
# What takes too long for a test: workers, supervisors and logs killed, errors
# injected, everything used up, under load, in every design. Ends with the
# report card, one table, and with status 1 if a single loss is unexplained, a
# byte is wrong, a zombie stays or the supervisor grows.
#
#   scripts/soak.sh                ten minutes, shared out
#   scripts/soak.sh --quick        a minute: a smoke
#   scripts/soak.sh --all          every scenario at its full size: over an hour
#   scripts/soak.sh S1 S3 --time 5m --seed 862
#   scripts/soak.sh S1 S3 --peers  and what other servers lose of the same
#   scripts/soak.sh --results      also writes the card into scripts/soak/RESULTS.md
#
# The scenarios are scripts/soak/*.rs.
set -eu
cd "$(dirname "$0")/.."

results=
for word in "$@"; do
    shift
    case $word in
    --results) results=yes ;;
    -h) set -- "$@" --help ;;
    *) set -- "$@" "$word" ;;
    esac
done
card=$(mktemp)
trap 'rm -f "$card"' EXIT
status=0
cargo bench --quiet --bench soak -- "$@" >"$card" || status=$?
cat "$card"
if [ "$results" ] && [ "$status" = 0 ]; then
    scripts/results.sh 'report card' "$card"
fi
exit "$status"
