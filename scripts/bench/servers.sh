# shellcheck shell=bash disable=SC2154 # set by bench.sh and the files it sources
# Servers for bench.sh: started in a control group of its own each, so that the
# kernel counts the CPU time of all their processes, whoever reaps them; ended
# by the pid that was started. To be sourced after lib.sh, which has
# $bin and $tmp. Uses $raw and $report of bench.sh.

declare -A addr_of=() cpu_of=() pid_of=() group_of=()
servers=()
groups='' started=0

# find_groups: makes a control group for this bench, where that is allowed.
find_groups() {
    local mount own
    mount=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts)
    own=$(sed -n 's/^0:://p' /proc/self/cgroup)
    [[ -n $mount && -n $own ]] || return 0
    groups=$mount${own%/}/echod-bench-$$
    mkdir "$groups" 2>/dev/null || { groups=''; return 0; }
    # To make one is not yet to be let in.
    mkdir "$groups/try"
    if ! { (echo "$BASHPID" >"$groups/try/cgroup.procs") && [[ -r $groups/try/cpu.stat ]]; } 2>/dev/null; then
        rmdir "$groups/try" "$groups"
        groups=''
        return 0
    fi
    rmdir "$groups/try"
}

# launch NAME waits|never COMMAND...: starts a server; "never" says that it does
# not wait for its children. Its standard output goes to $tmp/said, and what is
# named in $ready, if anything, becomes its descriptor 3.
launch() {
    local name=$1 waits=$2 group=
    shift 2
    started=$((started + 1))
    if [[ -n $groups ]]; then
        group=$groups/$started
        mkdir "$group"
    fi
    (
        [[ -z $group ]] || echo "$BASHPID" >"$group/cgroup.procs"
        # No descriptor of this script goes along.
        exec 3>"${ready:-/dev/null}" 2>>"$tmp/log" >"${said:-/dev/null}" </dev/null
        [[ -n ${ready:-} ]] || exec 3>&-
        # A session of its own: Apache, told to stop, signals its whole process group.
        exec setsid "$@"
    ) &
    pid_of[$name]=$! group_of[$name]=$group pids="$pids $!"
    if [[ -n $group ]]; then
        cpu_of[$name]=cgroup:$group
    elif [[ $waits = waits ]]; then
        cpu_of[$name]=tree:$!
    else
        cpu_of[$name]=machine
    fi
}

# stop NAME: ends it and waits; what it left behind is in its group, and nobody
# else is. Without a group, what a peer does not end itself is its own affair.
stop() {
    local pid=${pid_of[$1]} group=${group_of[$1]} tries=0
    kill "$pid" 2>/dev/null || :
    # A peer may be slow to obey; ten seconds are enough for any.
    while [[ -d /proc/$pid && $(sed 's/.*) //' "/proc/$pid/stat" 2>/dev/null) != Z* && $tries -lt 100 ]]; do
        sleep 0.1
        tries=$((tries + 1))
    done
    kill -KILL "$pid" 2>/dev/null || :
    wait "$pid" 2>/dev/null || :
    forget "$pid"
    remove_group "$group"
    unset "pid_of[$1]" "addr_of[$1]" "cpu_of[$1]" "group_of[$1]"
}

# remove_group DIR: ends whoever is left in it, and removes it.
remove_group() {
    local tries=0
    [[ -n $1 && -d $1 ]] || return 0
    echo 1 >"$1/cgroup.kill" 2>/dev/null || :
    until rmdir "$1" 2>/dev/null || [[ $tries -ge 100 ]]; do
        sleep 0.05
        tries=$((tries + 1))
    done
}

# note KIND KEY=VALUE...: a line of raw results.
note() { "$report" note "$raw" "$@"; }

# register NAME GROUP CLASS CONFIG: names a server in the results.
register() { note server "name=$1" "group=$2" "class=$3" "config=$4"; }

# missing WHAT WHY: says now and in the report what is not measured.
missing() {
    echo "not measured: $1: $2" >&2
    note note about=missing "what=$1" "why=$2"
}

# start_echod NAME OPTION...: leaves its address in addr_of. The fifo is at its
# end when echod serves, and also when it could not and ended.
start_echod() {
    local name=$1 waits=waits
    shift
    case " $* " in *" ignore "* | *" double-fork "*) waits=never ;; esac
    rm -f "$tmp/ready"
    mkfifo "$tmp/ready"
    ready=$tmp/ready launch "$name" "$waits" "$bin/echod" -l tcp:127.0.0.1:0 --ready-fd 3 "$@"
    addr_of[$name]=$(cat "$tmp/ready")
    [[ -n ${addr_of[$name]} ]] && return
    echo "bench.sh: echod $* did not start:" >&2
    tail -n 3 "$tmp/log" >&2
    exit 71
}

# start_plain NAME waits|never COMMAND...: a server of ours that prints its address.
start_plain() {
    rm -f "$tmp/ready"
    mkfifo "$tmp/ready"
    said=$tmp/ready launch "$@"
    addr_of[$1]=$(cat "$tmp/ready")
    [[ -n ${addr_of[$1]} ]] || { echo "bench.sh: $3 did not start" >&2; exit 71; }
}

# compile OUTPUT COMPILER SOURCE: static, since that is what is compared.
compile() {
    command -v "$2" >/dev/null || return 1
    "$2" -O2 -static -o "$1" "$3" 2>>"$tmp/log"
}

# baselines: the C programs of scripts/peers, where a compiler is.
baselines() {
    local row name compiler source waits class
    for row in 'C fork, glibc|cc|fork_echo|never|process' 'C fork, musl|musl-gcc|fork_echo|never|process' \
        'C epoll|cc|epoll_echo|waits|loop'; do
        IFS='|' read -r name compiler source waits class <<<"$row"
        if compile "$tmp/$compiler-$source" "$compiler" "scripts/peers/$source.c"; then
            register "$name" baseline "$class" "$compiler -O2 -static scripts/peers/$source.c"
            start_plain "$name" "$waits" "$tmp/$compiler-$source"
            servers+=("$name")
        else
            missing "$name" "no $compiler that links statically"
        fi
    done
}

# flight_of NAME: how many connections it can keep at once.
flight_of() {
    # It serves one at a time: a second that is kept would wait for the first.
    if [[ $1 = iterative ]]; then echo 1; else echo "$flight"; fi
}

# unit PHASE ROUND SERVER LOAD CONNECTIONS [KEY=VALUE]...: one run of echoload. A
# burst is so many connections at once, and no more. Fails if a byte was wrong or
# missing; the record then says so, and has no figures.
unit() {
    local phase=$1 round=$2 server=$3 load=$4 connections=$5
    shift 5
    local words=("phase=$phase" "round=$round" "server=$server" "load=$load" "$@")
    local command=("$bin/echoload")
    case $load in
    burst) command+=(crr -n "$connections" -s "$size" --timeout 60s) ;;
    stream) command+=(stream -d "$seconds" --timeout 10s) ;;
    *) command+=("$load" -d "$seconds" -s "$size" --timeout 30s) ;;
    esac
    command+=("${extra[@]}" --json -c "$connections" "${addr_of[$server]}")
    "$report" measure "$raw" "${cpu_of[$server]}" "${words[@]}" -- "${command[@]}"
}

# must PHASE ROUND SERVER LOAD ...: the same of a server that may not fail.
must() {
    unit "$@" || { echo "bench.sh: $3: $4 failed: no figures" >&2; exit 74; }
}
extra=()
