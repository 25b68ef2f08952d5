#!/bin/bash
# Runs every process design of echod, and C programs as yardsticks, against
# echoload, and prints what each costs; with --peers, other echo servers too.
# Rounds are interleaved, one server after the other, so that what the machine
# does meanwhile falls on all of them; figures are medians over the rounds. A
# run in which a byte was wrong or missing ends the script: it has no figures.
# Needs no root and touches no sysctl.
#
# Files: raw.jsonl (every run), bench.csv, bench.json, bench.md and report.html, and
# the echod that was measured; with --baseline, baseline.txt and baseline.jsonl.
set -euo pipefail

usage() {
    cat >&2 <<'USAGE'
usage: scripts/bench.sh [OPTION]... [ADDR]

  ADDR            measure this running server (tcp:HOST:PORT) instead of echod's designs
  --quick         one short round of everything, as a smoke
  --model M       only these designs: a model (prefork) or a name of the table; repeatable
  -d SECONDS      how long each run lasts (default 0.3)
  -r ROUNDS       at most so many rounds (default: as many as --time allows)
  --time T        how long in all, 90s or 10m (default 10m, with --peers or --targets 20m);
                  cuts rounds, never designs
  --peers         other echo servers that are installed, in pairs with echod
  --targets       the figures that echod is to reach, as a table; includes --peers
  --row LOAD      only these rows of --targets: wakeups, memory, alive, crr, rr, stream,
                  burst; repeatable
  --baseline OLD  this build beside an older echod (a binary, or a folder with one), in
                  pairs; ends with 75 if a load is surely slower
  --fail-below X  what counts as slower: a ratio whose whole interval is below X
                  (default 0.95)
  --held N        clients held for --targets (default 2000)
  -o DIR          where the files go (default target/bench/DATE)
USAGE
    exit 64
}

here=$(cd "$(dirname "$0")" && pwd)
quick='' models=() rows=() seconds='' rounds=1000 dir='' limit='' with_peers='' with_targets='' held=2000 target='' baseline='' fail_below=0.95
while [[ $# -gt 0 ]]; do
    case $1 in
    --quick | --peers | --targets | -[!-]?*) ;;
    -*) [[ $# -gt 1 ]] || usage ;;
    esac
    case $1 in
    --quick) quick=yes ;;
    --peers) with_peers=yes ;;
    --targets) with_targets=yes ;;
    --model) models+=("$2"); shift ;;
    -d) seconds=$2; shift ;;
    -r) rounds=$2; shift ;;
    -o) dir=$2; shift ;;
    --time) limit=$2; shift ;;
    --held) held=$2; shift ;;
    --baseline) baseline=$2; shift ;;
    --fail-below) fail_below=$2; shift ;;
    --row)
        [[ $2 =~ ^(wakeups|memory|alive|crr|rr|stream|burst)$ ]] || usage
        rows+=("$2") with_targets=yes; shift ;;
    -*) usage ;;
    *) [[ -z $target ]] || usage; target=$1 ;;
    esac
    shift
done
case $limit in
'') limit=600; [[ -z $with_peers$with_targets ]] || limit=1200 ;;
*[0-9]m) limit=$((${limit%m} * 60)) || usage ;;
*) limit=${limit%s} ;;
esac
for number in "$rounds" "$held" "$limit"; do
    [[ $number =~ ^[1-9][0-9]{0,6}$ ]] || usage
done
[[ -z $seconds || $seconds =~ ^[0-9]+(\.[0-9]+)?$ ]] || usage
[[ $fail_below =~ ^(1|0\.[0-9]+)$ ]] || usage
[[ -z $baseline || -z $with_peers$with_targets$target ]] || usage
[[ -z $target || $target =~ ^(tcp:)?[^:]+:[0-9]+$ ]] || usage
seconds=${seconds:-$([[ -n $quick ]] && echo 0.1 || echo 0.3)}
[[ -z $quick ]] || rounds=1
flight=16 size=64 burst=256

# shellcheck source=scripts/lib.sh
. "$here/lib.sh"
cargo build --release --quiet --example bench-report
report=$bin/examples/bench-report
# title | connections that can be kept at once | options
# shellcheck disable=SC2034 # used by the files below
designs=$("$report" designs)
# shellcheck source=scripts/bench/servers.sh
. scripts/bench/servers.sh
# shellcheck source=scripts/bench/rounds.sh
. scripts/bench/rounds.sh
# shellcheck source=scripts/bench/peers.sh
. scripts/bench/peers.sh
# shellcheck source=scripts/bench/targets.sh
. scripts/bench/targets.sh
# shellcheck source=scripts/bench/baseline.sh
. scripts/bench/baseline.sh
[[ -z $baseline ]] || find_baseline "$baseline"

date=$(date -u +%Y-%m-%dT%H:%M:%SZ)
dir=${dir:-target/bench/${date//:/}}
mkdir -p "$dir"
raw=$dir/raw.jsonl
: >"$raw"
# For a later --baseline.
cp "$bin/echod" "$dir/echod"
# The build is none of the time.
SECONDS=0 end=$limit
# The report of an interrupted bench is of what was measured until then.
trap '[[ -n $baseline ]] || { "$report" write "$raw" "$dir" || :; } 2>/dev/null; cleanup; end_groups' EXIT
end_groups() {
    local group
    [[ -n $groups ]] || return 0
    for group in "$groups"/*/; do remove_group "${group%/}"; done
    rmdir "$groups" 2>/dev/null || :
}
find_groups

header
if [[ -n $baseline ]]; then
    against_baseline
    echo "files: $dir/{baseline.txt,baseline.jsonl,echod}"
    exit "$verdict"
fi
if [[ -n $target ]]; then
    servers=("$target")
    addr_of[$target]=$target cpu_of[$target]=machine
    register "$target" peer server "was running"
elif [[ -n $with_targets ]]; then
    start_compared
else
    start_designs
fi
baselines
if [[ -z $with_targets ]]; then
    round 1
    "$report" table "$raw"
    if [[ -z $target ]]; then
        workers
        sweep_pools
        sweep_held
    fi
    [[ -z $with_peers ]] || end=$((SECONDS + (limit - SECONDS) / 2))
    more_rounds
    echo
    "$report" table "$raw"
    end=$limit
fi
if [[ -n $with_peers && -z $with_targets ]]; then
    plan_pairs 60
    peers against_peer
    echo
    "$report" pairs "$raw"
fi
if [[ -n $with_targets ]]; then
    targets
    echo
    "$report" targets "$raw"
fi
"$report" write "$raw" "$dir"
echo "files: $dir/{report.html,bench.md,bench.csv,bench.json,raw.jsonl}"
