# shellcheck shell=bash disable=SC2034,SC2154 # read and set by scripts/bench/peers.sh
# tcpserver (ucspi-tcp): a fork and an exec for each connection.
name=tcpserver needs=tcpserver class=process
config="tcpserver -H -R -l 0 -c 1000 -b 4096 stdio_echo (no lookups)"

serve() {
    exec tcpserver -q -H -R -l 0 -c 1000 -b 4096 127.0.0.1 "$1" "$stdio_echo"
}
