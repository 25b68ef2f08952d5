# shellcheck shell=bash disable=SC2034 # read by scripts/bench/peers.sh
# xinetd's internal echo: a fork for each connection, no exec. No limit of its
# own is reached; nothing is logged, so that no address is looked up.
name=xinetd needs=xinetd class=process
config="internal echo, instances, cps and per_source unlimited, nothing logged, no libwrap"
# Addresses are looked up or kept: it gets one.
options="--sources 1"

serve() {
    cat >"$2/xinetd.conf" <<CONF
service echo
{
    type = INTERNAL UNLISTED
    id = echo-stream
    socket_type = stream
    protocol = tcp
    bind = 127.0.0.1
    port = $1
    wait = no
    user = $(id -un)
    flags = NODELAY NOLIBWRAP
    instances = UNLIMITED
    per_source = UNLIMITED
    cps = 1000000 1
    log_type = FILE /dev/null
}
CONF
    exec xinetd -dontfork -f "$2/xinetd.conf" -pidfile "$2/xinetd.pid"
}
