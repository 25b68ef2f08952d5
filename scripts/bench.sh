#!/bin/sh
# Runs every process design of echod against echoload and prints a table.
# Rounds are interleaved, one design after the other, so that what the machine
# does meanwhile falls on all of them; figures are medians over the rounds.
# A run in which a byte was wrong or missing ends the script: it has no figures.
set -eu

usage() {
    echo "usage: scripts/bench.sh [--quick] [-d SECONDS] [-r ROUNDS]" >&2
    exit 64
}

seconds=1 rounds=5 flight=16 size=64
while [ $# -gt 0 ]; do
    case $1 in
    --quick) seconds=0.3 rounds=1 ;;
    -d) [ $# -gt 1 ] || usage; seconds=$2; shift ;;
    -r) [ $# -gt 1 ] || usage; rounds=$2; shift ;;
    *) usage ;;
    esac
    shift
done
case $rounds in '' | 0 | *[!0-9]*) usage ;; esac

# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

# run MODE CONNECTIONS NAME ADDR: adds "NAME|MODE|rate|p50|p99" to the results.
run() {
    "$bin/echoload" "$1" "$4" -c "$2" -s "$size" -d "$seconds" >"$tmp/report" || {
        echo "bench.sh: $3: echoload $1 ended with status $?" >&2
        cat "$tmp/report" >&2
        exit 1
    }
    awk -v key="$3|$1" '
        $1 ~ /^(requests|connections)\/s$/ { rate = $2 }
        $1 == "latency" { p50 = $3; p99 = $6 }
        END { print key "|" rate "|" p50 "|" p99 }' "$tmp/report" >>"$tmp/results"
}

echo "$designs" >"$tmp/designs"
while IFS='|' read -r name rr options; do
    # shellcheck disable=SC2086 # the options are words
    start $options
    echo "$name|$rr|$addr" >>"$tmp/servers"
done <"$tmp/designs"

echo "$(machine), $size bytes, $flight in flight (iterative rr: 1), $rounds rounds of $seconds s"
round=0
while [ "$round" -lt "$rounds" ]; do
    while IFS='|' read -r name rr addr; do
        run crr "$flight" "$name" "$addr"
        run rr "$rr" "$name" "$addr"
    done <"$tmp/servers"
    round=$((round + 1))
done

echo "closed loop: latencies leave out what a stalled server was not asked"
awk -F'|' -v servers="$tmp/servers" '
    function median(key, column,   n, i, j, t, v) {
        n = count[key]
        for (i = 1; i <= n; i++) v[i] = value[key, i, column] + 0
        for (i = 2; i <= n; i++)
            for (j = i; j > 1 && v[j - 1] > v[j]; j--) { t = v[j]; v[j] = v[j - 1]; v[j - 1] = t }
        low = v[1]; high = v[n]
        return n % 2 ? v[(n + 1) / 2] : (v[n / 2] + v[n / 2 + 1]) / 2
    }
    { key = $1 "|" $2; n = ++count[key]; for (i = 3; i <= 5; i++) value[key, n, i] = $i }
    END {
        printf "%-18s %9s %9s %9s %8s %8s %10s %8s %8s\n", "design", "crr/s", "min", "max",
            "p50 us", "p99 us", "rr/s", "p50 us", "p99 us"
        while ((getline line < servers) > 0) {
            split(line, field, "|"); c = field[1] "|crr"; r = field[1] "|rr"
            rate = median(c, 3); min = low; max = high
            printf "%-18s %9.0f %9.0f %9.0f %8.0f %8.0f %10.0f %8.0f %8.0f\n", field[1], rate, min, max,
                median(c, 4), median(c, 5), median(r, 3), median(r, 4), median(r, 5)
        }
    }' "$tmp/results"
