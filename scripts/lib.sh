# shellcheck shell=sh
# What bench.sh, scale.sh and udp-bench.sh share: a release build, and echods that end
# with the script. To be sourced; the caller has set -eu and $0 is its own.

cd "$(dirname "$0")/.." || exit
cargo build --release --quiet
host=$(rustc -vV | sed -n 's/^host: //p')
bin=${CARGO_TARGET_DIR:-target}/$host/release
[ -x "$bin/echod" ] || bin=${CARGO_TARGET_DIR:-target}/release

tmp=$(mktemp -d) pids=
cleanup() {
    trap - EXIT INT TERM HUP
    for pid in $pids; do kill "$pid" 2>/dev/null || :; done
    for pid in $pids; do wait "$pid" 2>/dev/null || :; done
    rm -rf "$tmp"
}
trap cleanup EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# start OPTION...: leaves the address in $addr and the supervisor's pid in $pid.
# The fifo is at end of file when echod serves, and also when it could not and
# ended.
start() {
    rm -f "$tmp/ready"
    mkfifo "$tmp/ready"
    "$bin/echod" -l tcp:127.0.0.1:0 --ready-fd 3 "$@" 3>"$tmp/ready" 2>>"$tmp/log" &
    pid=$! pids="$pids $!"
    addr=$(cat "$tmp/ready")
    [ -n "$addr" ] || { echo "$0: echod $* did not start:" >&2; cat "$tmp/log" >&2; exit 1; }
}

# forget PID: it has been waited for, and its number may be a stranger's now.
forget() {
    left=
    for one in $pids; do [ "$one" = "$1" ] || left="$left $one"; done
    pids=$left
}

# machine: what a figure means nothing without.
machine() {
    echo "$(uname -sr), $(getconf _NPROCESSORS_ONLN) cores, $(date -u +%Y-%m-%dT%H:%MZ)," \
        "$("$bin/echod" --version) release"
}
