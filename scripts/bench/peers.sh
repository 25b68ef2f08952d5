# shellcheck shell=bash disable=SC2154,SC2030,SC2031,SC2034,SC2004 # set by bench.sh and the files it sources
# Peers for bench.sh --peers and --targets: one file each in scripts/peers says
# what a peer is and how it is started. To be sourced after servers.sh.

# duel A B LOAD CONNECTIONS: A and B in turns, as one pair a round; who is first
# changes with the round, since the second finds a warmer machine. Ends with the
# first run that fails.
duel() {
    local a=$1 b=$2 load=$3 connections=$4 id round
    id="$load $connections|$a|$b"
    for ((round = 1; round <= pair_rounds; round++)); do
        [[ $round -le 2 || $SECONDS -lt $end ]] || break
        if ((round % 2)); then
            { pair_side a "$a" && pair_side b "$b"; } || break
        else
            { pair_side b "$b" && pair_side a "$a"; } || break
        fi
    done
}

# pair_side SIDE SERVER: half a round of duel.
pair_side() {
    unit "$1" "$round" "$2" "$load" "$connections" "pair=$id"
}

# with_peer FILE FUNCTION: starts the peer, runs FUNCTION NAME CLASS, stops it.
# Says what is missing instead, when something is.
with_peer() {
    local name needs class config port lines slow options why
    # The files are read in a shell of their own: each defines the same names.
    eval "$(
        port='' lines='' slow='' options='' name='' needs='' class='' config=''
        # shellcheck disable=SC1090 # one of scripts/peers/*.sh
        . "$1"
        declare -p name needs class config port lines slow options
    )"
    command -v "$needs" >/dev/null || { missing "$name" "$needs is not installed"; return 0; }
    why=$(peer_do "$1" usable) || { missing "$name" "$why"; return 0; }
    mkdir -p "$tmp/peer"
    peer_do "$1" prepare "$tmp/peer" 2>>"$tmp/log" || { missing "$name" "it cannot be built"; return 0; }
    port=${port:-$("$report" port)}
    # shellcheck disable=SC2016 # the inner shell expands it
    launch "$name" never bash -c 'stdio_echo=$1; . "$2"; serve "$3" "$4"' peer \
        "$stdio_echo" "$1" "$port" "$tmp/peer"
    addr_of[$name]=tcp:127.0.0.1:$port
    if "$report" await "127.0.0.1:$port" 2>>"$tmp/log"; then
        register "$name" peer "$class" "$config"
        # Both sides of a pair get the same load.
        read -ra extra <<<"$options"
        [[ $lines != yes ]] || extra+=(--lines)
        "$2" "$name" "$class" "$slow" "$lines"
        extra=()
    else
        missing "$name" "did not start: $(tail -n 1 "$tmp/log")"
    fi
    stop "$name"
    rm -rf "$tmp/peer"
}

# peer_do FILE FUNCTION ARGUMENT...: calls it if the file has it.
peer_do() (
    # shellcheck disable=SC1090 # one of scripts/peers/*.sh
    . "$1"
    shift
    ! declare -F "$1" >/dev/null || "$@"
)

# against_peer NAME CLASS SLOW LINES: the pairs of one peer.
against_peer() {
    local keep=$pair_rounds
    # Seconds a connection: a pair is enough to see that.
    [[ -z $3 ]] || pair_rounds=2
    if [[ $2 = process ]]; then
        duel prefork "$1" crr "$flight"
        duel "fork, ignore" "$1" crr "$flight"
    else
        duel "prefork, reuse" "$1" crr "$flight"
    fi
    pair_rounds=$keep
    [[ -z $3 ]] || return 0
    duel prefork "$1" rr 1
    duel prefork "$1" rr "$flight"
    # A stream is no line.
    [[ -n $4 ]] || duel prefork "$1" stream 4
}

# start_compared: the designs that others are compared with, unless they run.
start_compared() {
    local row name
    for row in 'prefork|' 'prefork, reuse|--max-connections-per-child 0' \
        'fork, ignore|--model fork --reap ignore'; do
        name=${row%%|*}
        [[ -z ${addr_of[$name]-} ]] || continue
        register "$name" design "" "${row#*|}"
        # shellcheck disable=SC2086 # the options are words
        start_echod "$name" -q ${row#*|}
    done
}

# peers FUNCTION: calls it for each peer, as with_peer does.
peers() {
    local file
    stdio_echo=$(command -v cat)
    compile "$tmp/stdio_echo" cc scripts/peers/stdio_echo.c && stdio_echo=$tmp/stdio_echo
    start_compared
    # The slow ones last: they take what time is left.
    for file in $(grep -L '^slow=' scripts/peers/*.sh; grep -l '^slow=' scripts/peers/*.sh); do
        with_peer "$file" "$1"
    done
}
