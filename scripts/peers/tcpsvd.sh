# shellcheck shell=bash disable=SC2034,SC2154 # read and set by scripts/bench/peers.sh
# tcpsvd (ipsvd): a fork and an exec for each connection. Looks no name up
# unless it is asked to (-h).
name=tcpsvd needs=tcpsvd class=process
config="tcpsvd -E -l 127.0.0.1 -c 1000 -b 4096 stdio_echo (no lookups, no environment)"
# Addresses are looked up or kept: it gets one.
options="--sources 1"

serve() {
    exec tcpsvd -E -l 127.0.0.1 -c 1000 -b 4096 127.0.0.1 "$1" "$stdio_echo"
}
