# shellcheck shell=bash disable=SC2034 # read by scripts/bench/peers.sh
# socat: a fork for each connection; the echo is a pipe of its own.
name=socat needs=socat class=process
config="TCP-LISTEN:PORT,fork,reuseaddr,nodelay,backlog=4096 PIPE, -b 65536"

serve() {
    exec socat -b 65536 "TCP-LISTEN:$1,bind=127.0.0.1,fork,reuseaddr,nodelay,backlog=4096" PIPE
}
