#!/bin/sh
# How exposed the units of scripts/dist are, by systemd-analyze security (0.0 is
# best, 10.0 worst), one line each: "SCORE WHAT". Needs no running systemd.
#   scripts/unit-score.sh [--gate]
# With --gate it ends with status 1 if one is above its limit, or if
# systemd-analyze verify has a word to say about any of the units.
set -eu

gate=
case "$#:${1-}" in
0:) ;;
1:--gate) gate=yes ;;
*) echo "usage: scripts/unit-score.sh [--gate]" >&2; exit 64 ;;
esac
cd "$(dirname "$0")/dist"

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
mkdir "$tmp/alone" "$tmp/activated" "$tmp/activated/echod.service.d"
cp no-network.conf "$tmp/activated/echod.service.d/"
for where in alone activated; do
    cp ./*.socket "$tmp/$where/"
    # verify looks whether the program is there, which is install.sh's affair.
    for unit in *.service; do
        sed 's|^ExecStart=[^ ]*|ExecStart=/bin/sh|' "$unit" >"$tmp/$where/$unit"
    done
done
failed=0

fail() {
    echo "unit-score.sh: FAILED: $*" >&2
    failed=1
}

# score WHERE LIMIT UNIT [WHAT]: with its drop-ins, which are beside it.
score() {
    what=$3${4-}
    found=$(SYSTEMD_UNIT_PATH="$tmp/$1:" systemd-analyze security --no-pager --offline=true \
        "$tmp/$1/$3" | sed -n 's/.*exposure level for [^:]*: *\([0-9.]*\).*/\1/p')
    echo "${found:-none} $what"
    [ -n "$found" ] || { fail "$what: no score"; return; }
    awk "BEGIN { exit !($found <= $2) }" || fail "$what: $found, above $2"
}

score alone 1.1 echod.service
score alone 1.1 echod@.service
score alone 0.4 echod-inetd@.service
score activated 0.4 echod.service " with echod.socket and no-network.conf"
[ -n "$gate" ] || exit 0
for where in alone activated; do
    said=$(SYSTEMD_UNIT_PATH="$tmp/$where:" systemd-analyze verify --man=no \
        "$tmp/$where"/*.service "$tmp/$where"/*.socket 2>&1) || fail "verify: $said"
    [ -z "$said" ] || fail "verify: $said"
done
said=$(systemd-sysusers --dry-run "$PWD/echod.sysusers" 2>&1) || fail "echod.sysusers: $said"
exit "$failed"
