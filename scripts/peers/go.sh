# shellcheck shell=bash disable=SC2034 # read by scripts/bench/peers.sh
# Go's own network library: one process, a goroutine for each connection.
name=Go needs=go class=loop
config="net.Listen, a goroutine and io.Copy for each connection"

prepare() {
    GOCACHE=$1/cache GO111MODULE=off go build -o "$1/go_echo" scripts/peers/go_echo.go
}

serve() {
    exec "$2/go_echo" "$1"
}
