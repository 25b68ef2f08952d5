# shellcheck shell=bash disable=SC2154 # set by bench.sh and the files it sources
# What bench.sh --baseline does: this build beside an older one, in pairs. A table
# of two runs decides nothing on a machine that others use too: the same build in
# two runs of this script differed by -17 to +41 %, in pairs by less than their
# interval. To be sourced after servers.sh.

# The designs that are compared where --model names none.
baseline_designs=('prefork' 'prefork, reuse' 'fork, wait' 'thread')

# find_baseline PATH: the older echod, from a binary or a folder that has one; bench.sh
# leaves one where its files go.
find_baseline() {
    old=$1
    [[ ! -d $old ]] || old=$old/echod
    [[ -x $old ]] && "$old" --version >/dev/null 2>&1 && return
    echo "bench.sh: --baseline $1: no echod there that runs" >&2
    exit 66
}

# start_pair OPTION...: both builds, as `new` and `old`.
start_pair() {
    start_echod new -q "$@"
    local bin=$tmp/old
    start_echod old -q "$@"
}

# compare NAME LOAD CONNECTIONS: one comparison, a line of the table.
compare() {
    local name=$1 load=$2 connections=$3 mode=$2
    status=0
    [[ $load != burst ]] || mode=crr
    local command=("$bin/echoload" "$mode" -c "$connections" -d "$each" --fail-below "$fail_below" --json)
    [[ $mode = stream ]] || command+=(-s "$size")
    "${command[@]}" "${addr_of[new]}" "${addr_of[old]}" >"$tmp/pair" 2>>"$tmp/log" || status=$?
    case $status in
    0) ;;
    75) slower+=("$name, $load") ;;
    *)
        echo "bench.sh: $name: $load: echoload ended with $status: no figures" >&2
        tail -n 3 "$tmp/log" >&2
        exit 74 ;;
    esac
    cat "$tmp/pair" >>"$dir/baseline.jsonl"
    "$report" pair "$tmp/pair" "$name, $load $connections" "$fail_below" | tee -a "$dir/baseline.txt"
}

# against_baseline: every design and load. Leaves in $verdict what to end with, 75
# where one is surely slower.
against_baseline() {
    local name options wanted_models=("${models[@]}")
    local plan=() slower=() each status=0
    while IFS='|' read -r name _ options; do
        if [[ ${#wanted_models[@]} -gt 0 ]]; then
            wanted "$name" "$options" || continue
        else
            [[ " ${baseline_designs[*]/#/|} " == *"|$name "* ]] || continue
        fi
        plan+=("$name|$options")
    done <<<"$designs"
    [[ ${#plan[@]} -gt 0 ]] || { echo "bench.sh: --model ${models[*]}: no such design" >&2; exit 64; }
    # Four loads each; a comparison of less than six seconds has too few rounds.
    each=$(awk -v left="$limit" -v n="${#plan[@]}" 'BEGIN { d = left / (4 * n) - 1; print (d < 6 ? 6 : d) "s" }')
    [[ -z $quick ]] || each=1s
    : >"$dir/baseline.jsonl"
    : >"$dir/baseline.txt"
    mkdir -p "$tmp/old"
    ln -s "$(realpath "$old")" "$tmp/old/echod"
    echo "baseline: $old, $("$old" --version); ratios are this build's rate by the baseline's, with 95 % intervals"
    for name in "${plan[@]}"; do
        options=${name#*|} name=${name%%|*}
        # shellcheck disable=SC2086 # the options are words
        start_pair $options
        compare "$name" crr "$flight"
        compare "$name" rr "$(flight_of "$name")"
        compare "$name" stream "$(( $(flight_of "$name") > 4 ? 4 : 1 ))"
        compare "$name" burst "$burst"
        stop old
        stop new
    done
    [[ ${#slower[@]} -gt 0 ]] || { echo "no load is surely slower than $fail_below of the baseline"; return; }
    printf 'bench.sh: slower than the baseline: %s\n' "${slower[@]}" >&2
    verdict=75
}
# shellcheck disable=SC2034 # the status of bench.sh
verdict=0
