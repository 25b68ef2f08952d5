# shellcheck shell=bash disable=SC2154 # set by bench.sh and the files it sources
# What bench.sh --targets measures beyond pairs with peers. To be sourced after
# peers.sh.

pair_rounds=20

# plan_pairs N: as long as N pairs of pair_rounds rounds may take, within reason.
# Where there is no time for that, rounds are cut.
plan_pairs() {
    # A fifth is for peers that take seconds a connection.
    local left=$(((end - SECONDS) * 4 / 5))
    if [[ -n $quick ]]; then
        pair_rounds=1
        return
    fi
    # Starting a run and writing it down takes about 0.06 s.
    seconds=$(awk -v left="$left" -v n="$1" -v r="$pair_rounds" -v most="$seconds" 'BEGIN {
        d = left / (n * 2 * r) - 0.06
        if (d < 0.1) d = 0.1
        print (d < most ? d : most) }')
    pair_rounds=$(awk -v left="$left" -v n="$1" -v d="$seconds" 'BEGIN {
        r = int(left / (n * 2 * (d + 0.06)))
        if (r > 20) r = 20
        print (r < 2 ? 2 : r) }')
}

# wants ROW...: whether one of these is to be measured: all are, unless --row said.
wants() {
    local row
    [[ ${#rows[@]} -gt 0 ]] || return 0
    for row; do
        [[ " ${rows[*]} " != *" $row "* ]] || return 0
    done
    return 1
}

# targets: all rows, the cheap ones that nothing else can stand for first.
targets() {
    note header "targets=yes" "held=$held"
    [[ -z $quick ]] || pair_rounds=1
    wants wakeups && idle_wakeups
    wants memory && memory
    wants alive && alive
    plan_pairs 75
    wants crr rr stream && against_baselines
    wants crr rr stream burst && peers against_for_targets
    return 0
}

against_baselines() {
    local name
    for name in 'C fork, glibc' 'C fork, musl'; do
        [[ -n ${addr_of[$name]-} ]] || continue
        duel "fork, ignore" "$name" crr "$flight"
        duel prefork "$name" crr "$flight"
    done
    if [[ -n ${addr_of[C epoll]-} ]]; then
        duel "prefork, reuse" "C epoll" crr "$flight"
    fi
    if [[ -n ${addr_of[C fork, glibc]-} ]]; then
        duel prefork "C fork, glibc" rr 1
        duel prefork "C fork, glibc" rr "$flight"
        duel prefork "C fork, glibc" stream 4
    fi
}

# against_for_targets NAME CLASS SLOW: a peer's pairs, and the burst.
against_for_targets() {
    wants crr rr stream && against_peer "$@"
    [[ -n $3 ]] && wants burst || return 0
    start_echod "prefork, pool of 32" -q --start-servers 32 --min-spare-servers 32 --max-spare-servers 64
    duel "prefork, pool of 32" "$1" burst "$burst"
    stop "prefork, pool of 32"
}

# idle_wakeups: of 64 idle workers, those that wake and get nothing.
idle_wakeups() {
    start_echod idle -q --start-servers 64 --min-spare-servers 64 --max-spare-servers 128
    "$report" wakeups "$raw" "${pid_of[idle]}" 64 "$([[ -n $quick ]] && echo 2 || echo 20)" "$flight" -- \
        "$bin/echoload" crr -c "$flight" -n "$flight" "${addr_of[idle]}" ||
        missing "vain wake-ups" "see above"
    stop idle
}

# available: KiB.
available() { sed -n 's/^MemAvailable: *\([0-9]*\) kB/\1/p' /proc/meminfo; }

# at_rest: the same, once what the dead had has come back, within five seconds.
at_rest() {
    local now before=0 tries
    for ((tries = 0; tries < 10; tries++)); do
        now=$(available)
        [[ $now -gt $((before + 1024)) ]] || break
        before=$now
        sleep 0.5
    done
    echo "$now"
}

# footprint SERVER CLIENTS: bytes of memory for each client held, both ends.
footprint() {
    local before after
    before=$(at_rest)
    hold "${addr_of[$1]}" "$2"
    after=$(available)
    release
    "$report" settle "${pid_of[$1]}" 64
    echo $(((before - after) * 1024 / $2)) >"$tmp/bytes"
}

# memory: whole system, by MemAvailable, in turns.
memory() {
    local round ours theirs yardstick='C fork, glibc'
    [[ -n ${addr_of[$yardstick]-} ]] || { missing memory "no C server to compare with"; return 0; }
    start_echod many -q --max-clients "$((held + 1000))"
    for ((round = 0; round <= pair_rounds; round++)); do
        [[ $round -le 2 || $SECONDS -lt $((limit / 5)) ]] || break
        footprint many "$held"; ours=$(<"$tmp/bytes")
        footprint "$yardstick" "$held"; theirs=$(<"$tmp/bytes")
        # The first makes the kernel's caches grow, and is none of them.
        [[ $round -eq 0 && -z $quick ]] ||
            note note about=memory "pair=memory|prefork|$yardstick" "a=$ours" "b=$theirs"
    done
    stop many
}

# alive: the rate beside so many connections over the rate without.
alive() {
    local round without with seconds=$seconds
    # Longer than what the forks leave behind: the kernel's kdamond looks at
    # new memory, and takes a third of a core for a second or two.
    [[ -n $quick ]] || seconds=2
    start_echod many -q --max-clients "$((held + 1000))"
    for ((round = 1; round <= pair_rounds; round++)); do
        [[ $round -le 2 || $SECONDS -lt $((limit * 2 / 5)) ]] || break
        must alive "$round" many crr "$flight" alive=0
        without=$(last_rate)
        hold "${addr_of[many]}" "$held"
        at_rest >/dev/null
        must alive "$round" many crr "$flight" "alive=$held"
        with=$(last_rate)
        release
        "$report" settle "${pid_of[many]}" 64
        note note about=alive "pair=alive|prefork|prefork, none alive" "a=$with" "b=$without"
    done
    stop many
}

last_rate() { tail -n 1 "$raw" | sed 's/.*"rate_per_s":\([0-9.e+-]*\).*/\1/'; }
