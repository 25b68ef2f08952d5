#!/bin/sh
# cargo-fuzz on every parser, for a bounded time each and from a fixed seed, which
# is printed. The parsers are those of tests/it/bad_input/parsers.rs.
#
#   scripts/fuzz.sh                      a minute each
#   scripts/fuzz.sh --time 10m address   one, for longer
#   scripts/fuzz.sh --seed 1             another seed than 862
#
# An input that broke a parser is kept in target/fuzz/found/PARSER-*, and the
# command that runs it again is printed. What is learnt on the way stays in
# target/fuzz/corpus. Exit status: 0 nothing found, 1 something, 64 usage, 77 there is no
# cargo-fuzz or no nightly toolchain, which it needs (cargo install cargo-fuzz;
# rustup toolchain install nightly).
set -eu
cd "$(dirname "$0")/.."
list=tests/it/bad_input/parsers.rs
parsers=$(sed -n 's/^    ("\([a-z_]*\)", [a-z_]*),$/\1/p' "$list")

usage() {
    echo "fuzz.sh: $1" >&2
    echo "usage: scripts/fuzz.sh [--time DURATION] [--seed N] [PARSER]..." >&2
    exit 64
}

# number TEXT: digits, and more than 0.
number() {
    case $1 in
    '' | *[!0-9]*) usage "not a number, or not a time such as 60s or 2m: $1" ;;
    esac
    [ "$1" -gt 0 ] || usage "at least 1: $1"
    echo "$1"
}

time=60 seed=862 chosen=
while [ $# -gt 0 ]; do
    case $1 in
    --time | --seed) [ $# -ge 2 ] || usage "$1 needs a value" ;;
    esac
    case $1 in
    --time)
        case $2 in
        *m) time=$(number "${2%m}") && time=$((time * 60)) ;;
        *) time=$(number "${2%s}") ;;
        esac
        shift
        ;;
    --seed) seed=$(number "$2") && shift ;;
    -*) usage "no such option: $1" ;;
    *)
        echo "$parsers" | grep -qx -e "$1" || usage "no such parser: $1; there are: $(echo "$parsers" | tr '\n' ' ')"
        chosen="$chosen $1"
        ;;
    esac
    shift
done

if ! cargo +nightly fuzz --version >/dev/null 2>&1; then
    echo "fuzz.sh: skipped: cargo-fuzz or the nightly toolchain is not installed"
    exit 77
fi

out=$PWD/target/fuzz
mkdir -p "$out/found"
# The words that parsers know; libFuzzer has no escapes but \\ and \".
sed -n '/const WORDS/,/^];/s/^    \("[ -~]*"\),$/\1/p' tests/it/bad_input/mod.rs |
    grep -v '\\[tn0]' >"$out/words"
# cargo-fuzz sets RUSTFLAGS, so .cargo/config.toml's are left out: a sanitizer
# needs a dynamic program.
fuzz() {
    command=$1
    shift
    cargo +nightly fuzz "$command" --fuzz-dir scripts/fuzz --target-dir "$out/build" parser "$@"
}
fuzz build || { echo "fuzz.sh: the fuzz target does not build" >&2; exit 1; }

found=0
for parser in ${chosen:-$parsers}; do
    mkdir -p "$out/corpus/$parser"
    log=$(mktemp)
    if PARSER=$parser fuzz run "$out/corpus/$parser" -- -seed="$seed" -max_total_time="$time" \
        -timeout=10 -dict="$out/words" -artifact_prefix="$out/found/$parser-" \
        -print_final_stats=1 >"$log" 2>&1; then
        runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
        echo "fuzz.sh: $parser: $runs inputs in ${time} s, seed $seed: nothing found"
    else
        found=1
        cat "$log" >&2
        echo "fuzz.sh: $parser: FAILED, seed $seed; again, with a file of target/fuzz/found:" >&2
        echo "  PARSER=$parser cargo +nightly fuzz run --fuzz-dir scripts/fuzz" \
            "--target-dir target/fuzz/build parser FILE" >&2
    fi
    rm -f "$log"
done
exit "$found"
