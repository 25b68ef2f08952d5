# shellcheck shell=bash disable=SC2034 # read by scripts/bench/peers.sh
# OpenBSD's inetd, its internal echo: a fork for each connection, no exec. An
# internal service has the port of its name, 7, which root alone may take.
name=inetd needs=inetd class=process
config="openbsd-inetd, internal echo, rate unlimited, backlog 4096"
port=7

usable() {
    [[ $EUID -eq 0 ]] || { echo "its internal echo is on port 7, for root"; return 1; }
    local usage
    usage=$(inetd -? 2>&1 || :)
    [[ $usage = *"[-q len]"* ]] || { echo "not the inetd of OpenBSD"; return 1; }
}

serve() {
    echo "127.0.0.1:echo stream tcp4 nowait.2000000000 root internal" >"$2/inetd.conf"
    exec inetd -i -E -q 4096 -R 2000000000 "$2/inetd.conf"
}
