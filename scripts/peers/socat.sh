# shellcheck shell=bash disable=SC2034 # read by scripts/bench/peers.sh
# socat: a fork for each connection; the echo is a pipe of its own. Blocks are
# of 4 KiB since it waits for room in that pipe, which only it can make: a larger
# one deadlocks.
name=socat needs=socat class=process
config="TCP-LISTEN:PORT,fork,reuseaddr,nodelay,backlog=4096 PIPE, -b 4096"

serve() {
    exec socat -b 4096 "TCP-LISTEN:$1,bind=127.0.0.1,fork,reuseaddr,nodelay,backlog=4096" PIPE
}
