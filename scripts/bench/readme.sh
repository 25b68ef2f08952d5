#!/bin/bash
# Puts the table of a bench into README.md, between its two markers: no figure
# there is typed. DIR is where that bench wrote its files.
set -euo pipefail
[[ $# -eq 1 ]] || { echo "usage: scripts/bench/readme.sh DIR" >&2; exit 64; }
table=$(realpath "$1")/bench.md
cd "$(dirname "$0")/../.."
[[ -s $table ]] || { echo "readme.sh: $table: not written by a bench" >&2; exit 66; }
for marker in 'bench: begin' 'bench: end'; do
    [[ $(grep -c "^<!-- $marker" README.md) -eq 1 ]] ||
        { echo "readme.sh: README.md has not one line '<!-- $marker'" >&2; exit 65; }
done
new=$(mktemp)
trap 'rm -f "$new"' EXIT
awk -v table="$table" '
    /^<!-- bench: end/ { inside = 0 }
    !inside { print }
    /^<!-- bench: begin/ {
        inside = 1
        print ""
        while ((getline line < table) > 0) print line
        print ""
    }' README.md >"$new"
cat "$new" >README.md
