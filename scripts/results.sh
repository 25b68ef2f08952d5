#!/bin/bash
# Puts what a script wrote into the page of its results, between the two markers of
# that name: no figure there is typed.
#
#   scripts/results.sh bench target/bench/DATE/bench.md    scripts/bench/RESULTS.md
#   scripts/results.sh 'report card' FILE                  scripts/soak/RESULTS.md
#                                                          (as scripts/soak.sh --results does)
set -euo pipefail
usage() { echo "usage: scripts/results.sh bench|'report card' FILE" >&2; exit 64; }
[[ $# -eq 2 ]] || usage
name=$1 text=$(realpath "$2")
cd "$(dirname "$0")"
case $name in
bench) page=bench/RESULTS.md ;;
'report card') page=soak/RESULTS.md ;;
*) usage ;;
esac
[[ -s $text ]] || { echo "results.sh: $text: empty, or not there" >&2; exit 66; }
for marker in "$name: begin" "$name: end"; do
    [[ $(grep -c "^<!-- $marker" "$page") -eq 1 ]] ||
        { echo "results.sh: $page has not one line '<!-- $marker'" >&2; exit 65; }
done
new=$(mktemp)
trap 'rm -f "$new"' EXIT
awk -v text="$text" -v name="$name" '
    index($0, "<!-- " name ": end") == 1 { inside = 0 }
    !inside { print }
    index($0, "<!-- " name ": begin") == 1 {
        inside = 1
        print ""
        while ((getline line < text) > 0) print line
        print ""
    }' "$page" >"$new"
cat "$new" >"$page"
