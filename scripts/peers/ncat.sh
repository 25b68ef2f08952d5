# shellcheck shell=bash disable=SC2034,SC2154 # read and set by scripts/bench/peers.sh
# ncat: a fork and an exec for each connection, and a process between.
name=ncat needs=ncat class=process
config="ncat -l -k -m 4096 --exec stdio_echo"

serve() {
    exec ncat -l -k -n -m 4096 --exec "$stdio_echo" 127.0.0.1 "$1"
}
