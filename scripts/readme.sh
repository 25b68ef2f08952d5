#!/bin/bash
# Puts what a script wrote into README.md, between the two markers of that name:
# no figure there is typed.
#
#   scripts/readme.sh bench target/bench/DATE/bench.md
#   scripts/readme.sh 'report card' FILE         (as scripts/soak.sh --readme does)
set -euo pipefail
[[ $# -eq 2 ]] || { echo "usage: scripts/readme.sh NAME FILE" >&2; exit 64; }
name=$1 text=$(realpath "$2")
cd "$(dirname "$0")/.."
[[ -s $text ]] || { echo "readme.sh: $text: empty, or not there" >&2; exit 66; }
for marker in "$name: begin" "$name: end"; do
    [[ $(grep -c "^<!-- $marker" README.md) -eq 1 ]] ||
        { echo "readme.sh: README.md has not one line '<!-- $marker'" >&2; exit 65; }
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
    }' README.md >"$new"
cat "$new" >README.md
