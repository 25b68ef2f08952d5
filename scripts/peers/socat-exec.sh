# shellcheck shell=bash disable=SC2034,SC2154 # read and set by scripts/bench/peers.sh
# socat with a program behind: dearer by an exec, and better in bulk.
name="socat, exec" needs=socat class=process
config="TCP-LISTEN:PORT,fork,reuseaddr,nodelay,backlog=4096 EXEC:stdio_echo, -b 65536"

serve() {
    exec socat -b 65536 "TCP-LISTEN:$1,bind=127.0.0.1,fork,reuseaddr,nodelay,backlog=4096" \
        "EXEC:$stdio_echo"
}
