#!/bin/sh
# Whether all that names a version agrees with Cargo.toml, before it is tagged: the lock
# file, the changelog, the README, the manifest of Kubernetes, the dates of the pages,
# which are not older than their last change, and the tag. Names each that does not, and
# ends with status 1; or says how to tag it.
#   scripts/release.sh
set -eu

[ $# -eq 0 ] || { echo "usage: scripts/release.sh" >&2; exit 64; }
cd "$(dirname "$0")/.."
failed=0

wrong() {
    echo "release.sh: $*" >&2
    failed=1
}

version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)

locked=$(sed -n '/^name = "echod"$/{n;s/^version = "\(.*\)"/\1/p;}' Cargo.lock)
[ "$locked" = "$version" ] || wrong "Cargo.lock: $locked, not $version: cargo check"

newest=$(sed -n 's/^## //p' CHANGELOG.md | head -n 1)
day=${newest#"[$version] - "}
case $day in
[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]) ;;
*) wrong "CHANGELOG.md: begins with $newest, not with [$version] and its day" ;;
esac
repeated=$(sed -n 's/^## //p' CHANGELOG.md | sort | uniq -d)
[ -z "$repeated" ] || wrong "CHANGELOG.md: twice: $repeated"

# named FILE PATTERN: every version that stands there.
named() {
    found=$(grep -o "$2[0-9][0-9.]*[0-9]" "$1" | sed "s/^$2//" | sort -u)
    [ "$found" = "$version" ] || wrong "$1: $2$found, not $version"
}
named README.md 'echod '
named scripts/dist/kubernetes.yaml 'image: echod:'

for page in man/*.[1-8]; do
    dated=$(sed -n 's/^\.Dd //p' "$page")
    dated=$(date -u -d "$dated" +%F) || dated=none
    changed=$(git log -1 --format=%cs -- "$page")
    earlier=$(printf '%s\n' "$dated" "$changed" | sort | head -n 1)
    [ "$earlier" = "$changed" ] || wrong "$page: .Dd is $dated, and it changed on $changed"
done

[ -z "$(git status --porcelain)" ] || wrong "something is not committed"
if at=$(git rev-parse -q --verify "refs/tags/v$version^{commit}"); then
    [ "$at" = "$(git rev-parse HEAD)" ] || wrong "tag v$version is at another commit"
fi
unversioned=$(git tag --list 'v*' | grep -vxF -e "v$version" | sed 's/^v//' |
    while read -r tag; do grep -qF "## [$tag]" CHANGELOG.md || printf ' v%s' "$tag"; done)
[ -z "$unversioned" ] || wrong "CHANGELOG.md: nothing of$unversioned"

[ "$failed" -eq 0 ] || exit 1
if [ "$at" ]; then
    echo "release.sh: echod $version of $day is tagged, and all agrees"
else
    echo "release.sh: all agrees: git tag -a v$version -m 'echod $version'"
fi
