#!/bin/sh
# Compares the UDP echo of echod, its rates off, with the plainest C loop
# (scripts/peers/udp_echo.c), both built here. Rounds are interleaved, so that
# what the machine does meanwhile falls on both; figures are medians over the
# rounds. A wrong byte ends the script: it has no figures.
set -eu

usage() {
    echo "usage: scripts/udp-bench.sh [--quick] [-d SECONDS] [-r ROUNDS]" >&2
    exit 64
}

seconds=1 rounds=5
while [ $# -gt 0 ]; do
    case $1 in
    --quick) seconds=0.2 rounds=3 ;;
    -d) [ $# -gt 1 ] || usage; seconds=$2; shift ;;
    -r) [ $# -gt 1 ] || usage; rounds=$2; shift ;;
    *) usage ;;
    esac
    shift
done
case $rounds in '' | 0 | *[!0-9]*) usage ;; esac
command -v cc >/dev/null || { echo "udp-bench.sh: needs a C compiler (cc)" >&2; exit 69; }

# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

for peer in udp_echo udp_load; do
    cc -O2 -static -o "$tmp/$peer" "scripts/peers/$peer.c" 2>/dev/null ||
        cc -O2 -o "$tmp/$peer" "scripts/peers/$peer.c"
done

mkfifo "$tmp/echod" "$tmp/plain"
"$bin/echod" -q -l udp:127.0.0.1:0 --ready-fd 3 --udp-refuse-port off \
    --udp-rate off --udp-global-rate off 3>"$tmp/echod" 2>"$tmp/log" &
pids="$pids $!"
addr=$(cat "$tmp/echod")
[ -n "$addr" ] || { echo "udp-bench.sh: echod did not start:" >&2; cat "$tmp/log" >&2; exit 1; }
"$tmp/udp_echo" >"$tmp/plain" &
pids="$pids $!"
read -r plain <"$tmp/plain"

# measure WHO PORT WINDOW SIZE: adds "WINDOW SIZE WHO RATE LOST" to the results.
measure() {
    result=$("$tmp/udp_load" "$2" "$3" "$4" "$seconds")
    echo "$3 $4 $1 $result" | sed 's/rate //; s,/s lost,,' >>"$tmp/results"
}

cases="1:64 8:64 32:64 128:64 32:1400"
round=0
while [ "$round" -lt "$rounds" ]; do
    for case in $cases; do
        measure echod "${addr##*:}" "${case%:*}" "${case#*:}"
        measure plain "$plain" "${case%:*}" "${case#*:}"
    done
    round=$((round + 1))
done

echo "datagrams echoed per second, medians of $rounds rounds of ${seconds}s;"
echo "echod with its rates off against one recvfrom and one sendto a datagram"
printf '%9s %6s %10s %10s %7s %10s\n' "in flight" bytes echod plain ratio "lost (e/p)"
for case in $cases; do
    median() {
        grep "^${case%:*} ${case#*:} $1 " "$tmp/results" | sort -n -k4 |
            awk '{ rate[NR] = $4; lost += $5 } END { print rate[int((NR + 1) / 2)], lost }'
    }
    echo "${case%:*} ${case#*:} $(median echod) $(median plain)" |
        awk '{ printf "%9d %6d %10d %10d %7.2f %6d/%d\n", $1, $2, $3, $5, $3 / $5, $4, $6 }'
done
