# shellcheck shell=bash disable=SC2034 # read by scripts/bench/peers.sh
# Apache's prefork MPM with mod_echo, which echoes lines: the load's messages
# end in a newline. Workers live for ever.
name="Apache, reuse" needs=apache2 class=reuse per_child=0
config="mpm_prefork + mod_echo, MaxConnectionsPerChild 0, 32 workers, ListenBacklog 4096"
lines=yes
# Its graceful stop, for scripts/soak.sh --peers.
stop_signal=WINCH

usable() {
    local modules=/usr/lib/apache2/modules
    [[ -e $modules/mod_echo.so && -e $modules/mod_mpm_prefork.so ]] ||
        { echo "no mod_echo.so, mod_mpm_prefork.so in $modules"; return 1; }
}

serve() {
    cat >"$2/apache.conf" <<CONF
ServerRoot $2
ServerName localhost
PidFile $2/apache.pid
ErrorLog $2/apache.log
DefaultRuntimeDir $2
LoadModule mpm_prefork_module /usr/lib/apache2/modules/mod_mpm_prefork.so
LoadModule echo_module /usr/lib/apache2/modules/mod_echo.so
Listen 127.0.0.1:$1
ListenBacklog 4096
StartServers 32
MinSpareServers 32
MaxSpareServers 64
ServerLimit 512
MaxRequestWorkers 512
MaxConnectionsPerChild $per_child
ProtocolEcho On
CONF
    # Started by root, its workers become this user.
    [[ $EUID -ne 0 ]] || echo "User nobody" >>"$2/apache.conf"
    exec apache2 -DFOREGROUND -f "$2/apache.conf"
}
