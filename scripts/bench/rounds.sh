# shellcheck shell=bash disable=SC2154 # set by bench.sh and the files it sources
# The rounds and sweeps of bench.sh. To be sourced after servers.sh.

# header: what a figure means nothing without, printed and noted.
header() {
    local key value by='a control group for each server'
    [[ -n $groups ]] || by='/proc: control groups cannot be made here'
    while IFS='|' read -r key value; do
        echo "$key: $value"
        note header "$key=$value"
    done <<HEADER
kernel|$(uname -srm)
cores|$(getconf _NPROCESSORS_ONLN), $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)
date|$date
build|$("$bin/echod" --version), release, $(build_kind), $(revision)
sandbox|$(sandbox)
payload|$size bytes
in flight|$flight; kept connections of the iterative server: 1; burst: $burst; stream: 4
run|$seconds s each, loopback, client on the same machine, closed loop
CPU time by|$by
HEADER
}

build_kind() {
    if readelf -l "$bin/echod" 2>/dev/null | grep -q INTERP; then echo dynamic; else echo static; fi
}

revision() {
    git rev-parse --short HEAD 2>/dev/null || echo "no revision"
}

# sandbox: as echod's first line says it.
sandbox() {
    start_echod probe
    stop probe
    sed -n 's/.*sandbox \(.*\)$/\1/p' "$tmp/log" | head -n 1
}

# wanted NAME OPTIONS: whether --model asks for this design.
wanted() {
    local model=prefork one
    [[ ${#models[@]} -gt 0 ]] || return 0
    [[ $2 != *"--model "* ]] || { model=${2#*--model }; model=${model%% *}; }
    for one in "${models[@]}"; do
        [[ $one != "$model" && $one != "$1" ]] || return 0
    done
    return 1
}

# start_designs: all of echod's designs, idle until it is their turn.
start_designs() {
    local name options class
    while IFS='|' read -r name _ options; do
        wanted "$name" "$options" || continue
        class=process
        [[ $options != *"--max-connections-per-child 0"* ]] || class=reuse
        [[ $options != *thread* && $options != *iterative* ]] || class=loop
        register "$name" design "$class" "$options"
        # shellcheck disable=SC2086 # the options are words
        start_echod "$name" -q $options
        servers+=("$name")
    done <<<"$designs"
    [[ ${#servers[@]} -gt 0 ]] || { echo "bench.sh: --model ${models[*]}: no such design" >&2; exit 64; }
}

# round N: every server once under every load.
round() {
    local name
    for name in "${servers[@]}"; do
        must rounds "$1" "$name" crr "$flight"
        must rounds "$1" "$name" rr "$(flight_of "$name")"
        must rounds "$1" "$name" stream "$(( $(flight_of "$name") > 4 ? 4 : 1 ))"
        must rounds "$1" "$name" burst "$burst"
    done
}

# more_rounds: until the time or their number is up.
more_rounds() {
    local number=1 began took=0
    while [[ $number -lt $rounds && $((SECONDS + took)) -le $end ]]; do
        began=$SECONDS number=$((number + 1))
        round "$number"
        took=$((SECONDS - began))
        [[ ! -t 2 ]] || printf '\rround %d, %d of %d s ' "$number" "$SECONDS" "$end" >&2
    done
    [[ ! -t 2 ]] || echo >&2
}

# workers: who of a pool of 15 did the work (UNP figure 30.2), by the log's
# lines; not while rates are taken, since a log line costs.
workers() {
    local name options counts
    while IFS='|' read -r name _ options; do
        case $options in *--model\ *thread* | *double-fork*) continue ;; esac
        wanted "$name" "$options" || continue
        case $options in
        *--model\ fork* | *iterative*) ;;
        *reuseport*) options+=" --start-servers 15 --max-clients 15" ;;
        *) options+=" --start-servers 15 --min-spare-servers 1 --max-spare-servers 15 --max-clients 15" ;;
        esac
        : >"$tmp/log"
        # shellcheck disable=SC2086 # the options are words
        RUST_LOG=conn=debug start_echod workers $options
        "$bin/echoload" crr -c "$flight" -n "$([[ -n $quick ]] && echo 300 || echo 3000)" "${addr_of[workers]}" >/dev/null
        stop workers
        # Who served nobody is in no line.
        counts=$(sed -n 's/.* conn pid=\([0-9]*\) .*/\1/p' "$tmp/log" | sort | uniq -c | sort -rn |
            awk -v pool="$([[ $options = *child\ 0* ]] && echo 15 || echo 0)" '
                NR <= 15 { printf "%s%s", comma, $1; comma = "," }
                END { for (n = NR; n < pool; n++) printf "%s0", comma }')
        note note about=per_worker "server=$name" "counts=$counts"
    done <<<"$designs"
}

# sweep_pools: the load on pools of more and more workers, as in the book.
sweep_pools() {
    local row name pool pools='15 30 45 60 75 90 105 120'
    [[ -z $quick ]] || pools='15 120'
    for row in 'prefork, reuse|--max-connections-per-child 0' \
        'reuse, fcntl|--accept fcntl --max-connections-per-child 0' \
        'reuse, mutex|--accept mutex --max-connections-per-child 0' \
        'reuse, pass|--accept pass --max-connections-per-child 0' \
        'prethread, mutex|--model prethread --accept mutex' 'prefork|'; do
        name=${row%%|*}
        [[ -n ${addr_of[$name]-} ]] || continue
        for pool in $pools; do
            # shellcheck disable=SC2086 # the options are words
            beside "$name" pool "$pool" ${row#*|} --start-servers "$pool" \
                --min-spare-servers "$((pool < 15 ? pool : 15))" --max-spare-servers "$pool"
        done
    done
}

# beside NAME PHASE AT OPTION...: one run against another server of the same
# design, which takes the name's place meanwhile.
beside() {
    local name=$1 phase=$2 at=$3
    shift 3
    start_echod beside -q "$@"
    [[ $phase != held || $at -eq 0 ]] || hold "${addr_of[beside]}" "$at"
    swap "$name"
    must "$phase" 1 "$name" crr "$flight" "at=$at"
    swap "$name"
    release
    stop beside
}

# swap NAME: lets the server `beside` be measured under the name, and back.
swap() {
    local addr=${addr_of[$1]} cpu=${cpu_of[$1]}
    addr_of[$1]=${addr_of[beside]} cpu_of[$1]=${cpu_of[beside]}
    addr_of[beside]=$addr cpu_of[beside]=$cpu
}

# sweep_held: the load beside clients that are connected and silent.
sweep_held() {
    local row name clients counts='0 250 500 1000 2000'
    [[ -z $quick ]] || counts='0 200'
    for row in 'prefork|' 'prefork, reuse|--max-connections-per-child 0' \
        'fork, wait|--model fork --reap wait' 'fork, ignore|--model fork --reap ignore' \
        'fork, double-fork|--model fork --reap double-fork' 'thread|--model thread'; do
        name=${row%%|*}
        [[ -n ${addr_of[$name]-} ]] || continue
        for clients in $counts; do
            # shellcheck disable=SC2086 # the options are words
            beside "$name" held "$clients" ${row#*|} --max-clients 4096
        done
    done
}

# hold ADDR CLIENTS: connects clients, and returns when each was echoed once.
hold() {
    local rest=$2 many most
    most=$(($(ulimit -Hn) - 100))
    holders=()
    while [[ $rest -gt 0 ]]; do
        many=$((rest < most ? rest : most)) rest=$((rest - many))
        rm -f "$tmp/held"
        mkfifo "$tmp/held"
        "$report" hold "${1#tcp:}" "$many" >"$tmp/held" &
        holders+=("$!") pids="$pids $!"
        [[ $(cat_line "$tmp/held") = held ]] || { echo "bench.sh: cannot hold $2 clients" >&2; exit 71; }
    done
}
holders=()

cat_line() {
    local line=
    read -r line <"$1" || :
    echo "$line"
}

# release: ends what hold started.
release() {
    local pid
    for pid in "${holders[@]}"; do
        kill "$pid" 2>/dev/null || :
        wait "$pid" 2>/dev/null || :
        forget "$pid"
    done
    holders=()
}
