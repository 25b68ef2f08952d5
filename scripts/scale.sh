#!/bin/bash
# How many clients at once: starts echod and as many "echoload hold" as the
# limit of open files needs, waits until all are connected and served, then has
# each echo again. Prints how many were held, what each cost, what kdamond (the
# kernel's memory sampler, which can take a core when thousands share pages)
# took meanwhile, and what stopped it before N, if anything did. Ends everything
# it started, and stops short of using up the machine's memory.
set -euo pipefail

usage() {
    cat >&2 <<'USAGE'
usage: scripts/scale.sh [--raise] [--time S] [--spare MIB] [N [echod's OPTION...]]

  N            clients to hold at once (default 20000)
  OPTION       the design, in echod's words (default --model fork --reap ignore)
  --raise      raise kernel.pid_max for the run; needs root
  --time S     at most so many seconds to connect them all (default 120)
  --spare MIB  stop when no more memory than this is available (default 1536)
USAGE
    exit 64
}

raise='' limit=120 spare=1536
while [[ ${1-} = -* ]]; do
    case $1 in
    --raise) raise=yes ;;
    --time | --spare) [[ $# -gt 1 ]] || usage; declare "${1#--}=$2"; shift ;;
    *) usage ;;
    esac
    shift
done
time=${time:-$limit} wanted=${1:-20000}
for number in "$time" "$spare" "$wanted"; do
    [[ $number =~ ^[1-9][0-9]{0,6}$ ]] || usage
done
shift $(($# > 0))
[[ $# -gt 0 ]] || set -- --model fork --reap ignore

# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

fields='MemAvailable PageTables KernelStack Slab AnonPages Shmem'
# memory: KiB of each of the fields, in their order.
memory() {
    awk -v fields="$fields" '{ of[$1] = $2 }
        END { n = split(fields, f); for (i = 1; i <= n; i++) printf "%d ", of[f[i] ":"] }' /proc/meminfo
}
available() { awk '$1 == "MemAvailable:" { print $2 }' /proc/meminfo; }
# tasks: all of the machine, without walking /proc.
tasks() { awk '{ split($4, of, "/"); print of[2] }' /proc/loadavg; }
# cpu PID...: seconds of processor time.
cpu() {
    local one
    for one; do sed 's/.*) //' "/proc/$one/stat" 2>/dev/null || :; done |
        awk -v hz="$(getconf CLK_TCK)" '{ t += $12 + $13 } END { printf "%.1f\n", t / hz }'
}
grown() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.1f", b - a }'; }
samplers() { grep -lx 'kdamond\.[0-9]*' /proc/[0-9]*/comm 2>/dev/null | sed 's/[^0-9]//g'; }

if [[ -n $raise ]]; then
    old=$(</proc/sys/kernel/pid_max) new=$((wanted + 10000))
    if [[ $new -gt $old ]]; then
        # The first process after it may already need a number above the old one.
        trap 'cleanup; echo "$old" >/proc/sys/kernel/pid_max' EXIT
        echo "$new" >/proc/sys/kernel/pid_max || { echo "$0: --raise: kernel.pid_max needs root" >&2; exit 77; }
    fi
fi

echo "$(machine), $(awk '$1 == "MemTotal:" { printf "%.1f GiB", $2 / 1048576 }' /proc/meminfo)"
start "$@" -q --max-clients "$((wanted + 100))"
echo "echod $*"
sed 's/^/echod says: /' "$tmp/log"

mapfile -t kdamond < <(samplers)
files=$(($(ulimit -Hn) - 100)) rest=$wanted holders=()
read -ra before <<<"$(memory)"
alone=$(tasks) began=$SECONDS sampled=$(cpu "${kdamond[@]}") worked=$(cpu "$pid")
while [[ $rest -gt 0 ]]; do
    many=$((rest < files ? rest : files)) rest=$((rest - many))
    # They hold until they are told, and open no more then.
    "$bin/echoload" hold "$addr" -c "$many" -d 1h --timeout 60s --sources 16 --json \
        >"$tmp/held.${#holders[@]}" 2>>"$tmp/failed" &
    holders+=("$!") pids="$! $pids"
done

# Nothing tells when all are connected but that processes (or, with threads,
# tasks) are no more in number.
most=0 still=0 took=0 stopped=''
while [[ -z $stopped ]]; do
    sleep 0.2
    now=$(($(tasks) - alone))
    if [[ $now -gt $((most + 50)) ]]; then
        most=$now still=0 took=$((SECONDS - began))
    else
        still=$((still + 1))
    fi
    if [[ $(available) -lt $((spare * 1024)) ]]; then
        stopped="memory: less than $spare MiB are available"
    elif ! kill -0 "$pid" 2>/dev/null; then
        stopped="echod ended"
    elif [[ $((SECONDS - began)) -ge $time ]]; then
        stopped="time: $time s are over"
    elif [[ $still -ge 25 ]]; then
        # Five seconds without another.
        stopped=idle
    fi
done
watched=$((SECONDS - began))
read -ra after <<<"$(memory)"
sample=$(cpu "${kdamond[@]}") work=$(cpu "$pid")

kill -INT "${holders[@]}" 2>/dev/null || :
for one in "${holders[@]}"; do wait "$one" || :; done
sum() { cat "$tmp"/held.* | grep -o "\"$1\":[0-9]*" | awk -F: '{ n += $2 } END { print n + 0 }'; }
held=$(sum held) complete=$(sum complete)

echo "held at once: $held of $wanted, by ${#holders[@]} echoload, in $took s; echoed at the end: $complete"
for outcome in refused reset timeout short corrupt other; do
    [[ $(sum "$outcome") -eq 0 ]] || echo "  $outcome: $(sum "$outcome")"
done
if [[ $held -gt 0 ]]; then
    i=0
    printf 'KiB for each, both ends, whole system:'
    for field in $fields; do
        sign=1
        [[ $field != MemAvailable ]] || sign=-1
        awk -v f="$field" -v a="${before[$i]}" -v b="${after[$i]}" -v n="$held" -v s="$sign" \
            'BEGIN { printf " %s %.1f", f, s * (b - a) / n }'
        i=$((i + 1))
    done
    echo
fi
echo "processor time: echod's supervisor $(grown "$worked" "$work") s," \
    "kdamond $(if [[ ${#kdamond[@]} -gt 0 ]]; then grown "$sampled" "$sample"; else echo no; fi) s, of $watched s"
if [[ $held -lt $wanted ]]; then
    [[ $stopped != idle ]] || stopped="$(tail -n 1 "$tmp/log" | sed 's/^[^ ]* *//')"
    echo "stopped by ${stopped:-nothing that was noticed}"
    exit 75
fi
[[ $complete -eq $held ]] || exit 74
