#!/bin/sh
# What takes too long for a test: 100,000 connections through every design, 100
# graceful stops under load, 10 GiB through one connection. Prints a row for
# each and ends with status 1 if a single byte or client was lost, a zombie
# stayed, or the supervisor grew. A plain close beside the stops is what
# `cargo test row_55 -- --nocapture` prints.
set -eu

usage() {
    echo "usage: scripts/soak.sh [--quick] [-n CONNECTIONS] [-s STOPS]" >&2
    exit 64
}

connections=100000 stops=100 messages=640
while [ $# -gt 0 ]; do
    case $1 in
    --quick) connections=5000 stops=10 messages=16 ;;
    -n) [ $# -gt 1 ] || usage; connections=$2; shift ;;
    -s) [ $# -gt 1 ] || usage; stops=$2; shift ;;
    *) usage ;;
    esac
    shift
done
case $connections in '' | 0 | *[!0-9]*) usage ;; esac
case $stops in '' | *[!0-9]*) usage ;; esac

# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

# Memory the kernel sums up lazily, and what the allocator keeps of a burst.
rss_noise=512
failed=0

fail() {
    echo "soak.sh: FAILED: $*" >&2
    failed=1
}

# counts FILE: the outcomes of an echoload report, in its order.
counts() {
    awk '$1 == "outcomes" { print $3, $5, $7, $9, $11, $13 }' "$1"
}

zombies() {
    ps -o stat= --ppid "$pid" | awk '/^Z/ { n++ } END { print n + 0 }'
}

# Unreadable, but for root, of a process that gave up root or is sandboxed.
descriptors() {
    if [ -r "/proc/$pid/fd" ] && ls "/proc/$pid/fd" >"$tmp/fds" 2>/dev/null; then
        wc -l <"$tmp/fds" | tr -d ' '
    else
        echo -
    fi
}

workers() {
    ps -o pid= --ppid "$pid" | wc -l
}

rss() {
    awk '$1 == "VmRSS:" { print $2 }' "/proc/$pid/status"
}

# settle FDS: waits, for 2 s at most, until the last children are buried.
settle() {
    tries=0
    while [ "$tries" -lt 20 ]; do
        [ "$(zombies)" != 0 ] || [ "$(descriptors)" != "$1" ] || return 0
        sleep 0.1
        tries=$((tries + 1))
    done
}

# soak NAME OPTION...: one row of connections.
soak() {
    name=$1
    shift
    start "$@"
    "$bin/echoload" crr "$addr" -n 1000 >"$tmp/report" || fail "$name: warming up"
    settle "" # the pool comes to rest
    fds=$(descriptors) rss=$(rss) before=$(workers)
    "$bin/echoload" crr "$addr" -n "$connections" >"$tmp/report" ||
        fail "$name: echoload ended with status $?"
    settle "$fds"
    # shellcheck disable=SC2046 # the counts are words
    set -- $(counts "$tmp/report") "$(zombies)" "$fds" "$(descriptors)" "$rss" "$(rss)"
    printf "%-18s %9s %7s %5s %7s %5s %7s %7s %11s %14s\n" "$name" \
        "$1" "$2" "$3" "$4" "$5" "$6" "$7" "$8 / $9" "${10} / ${11}"
    [ "$1 $2 $3 $4 $5 $6" = "$connections 0 0 0 0 0" ] || fail "$name: clients were lost"
    [ "$7" = 0 ] || fail "$name: zombies"
    # Where connections are passed there is one for each worker that waits.
    [ "$8" = "$9" ] || [ "$(($9 - $8))" = "$(($(workers) - before))" ] || fail "$name: descriptors"
    [ "${11}" -le "$((${10} + rss_noise))" ] || fail "$name: memory"
    end "$name"
}

# end NAME: TERM, and the status of the supervisor.
end() {
    kill "$pid"
    status=0
    wait "$pid" || status=$?
    forget "$pid"
    [ "$status" = 0 ] || fail "$1: stopped with status $status"
}

# stop NAME OPTION...: one graceful stop in the middle of a load. Refused later
# is right; reset, late, short or wrong is a client that was let in and lost.
stop() {
    name=$1
    shift
    start "$@"
    "$bin/echoload" crr "$addr" -d 0.5 >"$tmp/report" 2>"$tmp/errors" &
    load=$!
    sleep 0.2 # not a wait: where in the load the stop comes
    end "$name"
    wait "$load" || : # refused connections are failures to it
    # shellcheck disable=SC2046 # the counts are words
    set -- $(counts "$tmp/report")
    complete=$((complete + $1)) lost=$((lost + $3 + $4 + $5 + $6))
    [ "$1" -gt 0 ] || fail "$name: stopped before the load"
}

machine
printf "%-18s %9s %7s %5s %7s %5s %7s %7s %11s %14s\n" design complete refused reset \
    timeout short corrupt zombies "fds" "rss KiB"
echo "$designs" >"$tmp/designs"
while IFS='|' read -r name _ options; do
    # shellcheck disable=SC2086 # the options are words
    soak "$name" $options
done <"$tmp/designs"

complete=0 lost=0 done=0
while [ "$done" -lt "$stops" ]; do
    while [ "$done" -lt "$stops" ] && IFS='|' read -r name _ options; do
        # shellcheck disable=SC2086 # the options are words
        stop "$name" $options
        done=$((done + 1))
    done <"$tmp/designs"
done
echo "$stops graceful stops under load: $complete connections complete, $lost lost after accept"
[ "$lost" = 0 ] || fail "a stop lost clients"

start --model prefork
"$bin/echoload" rr "$addr" -c 1 -s 16M -n "$messages" >"$tmp/report" || fail "the long stream"
echo "one connection, $((messages * 16)) MiB each way: $(sed -n 's/^outcomes //p' "$tmp/report")"
end "the long stream"
exit "$failed"
