#!/bin/bash
# What scripts/dist/boot-test.sh runs in the Debian that it boots: a row of its table for
# each function. Not to be run anywhere else: it installs, and takes everything away.
# shellcheck disable=SC2317 # row calls them by their names
set -euo pipefail
here=/boot-test failed=0
exec >"$here/table" 2>&1

# row WHAT: runs the function of that name, with blanks for its underscores. What it
# prints last is the evidence, and all of it is shown if it fails.
row() {
    local began=$EPOCHREALTIME what=${1//_/ } word=ok
    (set -eEuo pipefail; trap 'echo "line $LINENO: $BASH_COMMAND"' ERR; "$1") >"$here/said" 2>&1 &
    wait $! || { word=FAILED; failed=1; }
    awk -v w="$word" -v what="$what" -v a="$began" -v b="$EPOCHREALTIME" '
        { last = $0 } END { printf "%-7s %-34s %5.1f s  %s\n", w, what, b - a, last }' "$here/said"
    [[ $word = ok ]] || sed 's/^/        | /' "$here/said"
}

# until COMMAND...: within 20 s.
until_() {
    local end=$((SECONDS + 20))
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < end)) || { echo "not within 20 s: $*"; return 1; }
        sleep 0.05
    done
}
# never COMMAND...: that it fails, where "!" would not end the function.
never() { if "$@"; then echo "should fail: $*"; return 1; fi; }
property() { systemctl show -P "$2" "$1"; }
serves() { echoc --check "$1"; }
# A worker that has no client; with one that is no pool, any of its processes.
worker() { pgrep -n -P "$(property echod MainPID)" -x echod-idle; }
is_new() { local pid; pid=$(property echod MainPID); [[ $pid != 0 && $pid != "$1" ]]; }
journal_has() { journalctl -q --no-pager -u "$1" -o cat --grep "$2" | grep -q .; }

# load ADDRESS SECONDS COMMAND...: one client after the other, eight at a time, while
# the command runs again and again; none of them may be lost.
load() {
    local addr=$1 seconds=$2 n=0 pid
    shift 2
    echoload crr "$addr" -c 8 -d "${seconds}s" --timeout 30s >"$here/load" 2>&1 &
    pid=$!
    while kill -0 "$pid" 2>/dev/null; do
        "$@"
        n=$((n + 1))
        sleep 0.3
    done
    wait "$pid" || { cat "$here/load"; return 1; }
    ((n > 1))
    cat "$here/load"
    echo "$n times, $(done_of "$here/load")"
}

# What echoload's report says of those that were and were not served.
done_of() { sed -n 's/^outcomes //p' "$1"; }

install_the_package() {
    apt-get -q install -y "$here/echod.deb"
    systemctl is-enabled echod.service
    until_ serves 127.0.0.1:7777
    man -w echod echod-models echoc echoload
    echo "$(dpkg-query -W -f '${Version}' echod), $(serves 127.0.0.1:7777)"
}

start_and_status() {
    systemctl restart echod
    serves 127.0.0.1:7777
    [[ $(property echod ActiveState) = active && $(property echod Type) = notify ]]
    until_ test -n "$(property echod StatusText)"
    property echod StatusText
}

locked_in() {
    local status
    status=$(cat "/proc/$(worker)/status")
    grep -qx 'NoNewPrivs:	1' <<<"$status"
    grep -qx 'CapBnd:	0000000000000000' <<<"$status"
    # What systemd's own filter and ours add up to.
    grep -qx 'Seccomp:	2' <<<"$status"
    [[ $(ps -o user= -p "$(property echod MainPID)") = echod ]]
    echo "no capability, seccomp, user echod"
}

journal_with_priorities() {
    local pid
    pid=$(worker)
    kill -SEGV "$pid"
    until_ journal_has echod "$pid.*SEGV"
    journalctl -q --no-pager -u echod -p warning -o cat | grep -v '^echod.*Main process' >"$here/warnings"
    grep -q "$pid" "$here/warnings"
    never grep 'listening on' "$here/warnings"
    journalctl -q --no-pager -u echod -p info -o cat | grep -q 'listening on tcp:127.0.0.1:7777'
    never journal_has echod '^<[0-7]>'
    grep "$pid" "$here/warnings" | head -n 1
}

reload_under_load() {
    load 127.0.0.1:7777 5 systemctl reload echod
    journal_has echod generation
    tail -n 1 "$here/said"
}

a_reload_that_is_waited_for() {
    local version dir=/etc/systemd/system/echod.service.d
    version=$(systemctl --version | awk 'NR == 1 { print $2 }')
    if ((version < 253)); then
        echo "not by systemd $version"
        return
    fi
    install -Dm644 /usr/share/echod/notify-reload.conf -t $dir
    systemctl daemon-reload
    systemctl restart echod
    [[ $(property echod Type) = notify-reload ]]
    load 127.0.0.1:7777 3 systemctl reload echod
    rm -r $dir
    systemctl daemon-reload
    systemctl restart echod
    echo "by systemd $version: $(tail -n 1 "$here/said")"
}

stop_lets_clients_finish() {
    echoload rr 127.0.0.1:7777 -c 4 -d 3s >"$here/load" 2>&1 &
    local pid=$!
    until_ pgrep -x echod-conn
    systemctl stop echod
    wait "$pid" || { cat "$here/load"; return 1; }
    cat "$here/load"
    systemctl start echod
    serves 127.0.0.1:7777
    done_of "$here/load"
}

a_file_with_a_mistake() {
    echo 'max-client = 7' >>/etc/echod.toml
    never systemctl restart echod
    [[ $(property echod ExecMainStatus) = 78 && $(property echod NRestarts) = 0 ]]
    [[ $(property echod ActiveState) = failed ]]
    journal_has echod 'max-clients\?'
    sed -i '$d' /etc/echod.toml
    systemctl reset-failed echod
    systemctl start echod
    serves 127.0.0.1:7777
    echo "78, not started again: $(journalctl -q --no-pager -u echod -o cat --grep 'max-clients\?' | tail -n 1)"
}

crash() {
    local pid
    pid=$(property echod MainPID)
    kill -KILL "$pid"
    until_ is_new "$pid"
    until_ serves 127.0.0.1:7777
    [[ $(property echod NRestarts) = 1 ]]
    echo "KILL to the supervisor; started again after $(property echod RestartUSec)"
}

watchdog() {
    local pid
    mkdir -p /run/systemd/system/echod.service.d
    printf '[Service]\nWatchdogSec=2s\n' >/run/systemd/system/echod.service.d/watchdog.conf
    systemctl daemon-reload
    systemctl restart echod
    pid=$(property echod MainPID)
    kill -STOP "$pid"
    until_ is_new "$pid"
    until_ serves 127.0.0.1:7777
    rm -r /run/systemd/system/echod.service.d
    systemctl daemon-reload
    systemctl restart echod
    journalctl -q --no-pager -u echod -o cat --grep 'Watchdog timeout' | tail -n 1
}

an_instance() {
    mkdir -p /etc/echod
    echo 'listen = ["tcp:127.0.0.1:7008", "unix:/run/echod-office/echo"]' >/etc/echod/office.toml
    systemctl enable --now echod@office
    serves 127.0.0.1:7008
    serves unix:/run/echod-office/echo
    serves 127.0.0.1:7777
    systemctl disable --now echod@office
    [[ ! -e /run/echod-office ]]
    rm -r /etc/echod
    echo "beside echod.service"
}

logrotate_twice() {
    local log=/var/log/echod/echod.log
    printf 'RUST_LOG=info,conn=debug\nECHOD_LOG_TARGET=%s\n' $log >>/etc/default/echod
    systemctl restart echod
    for _ in 1 2; do
        serves 127.0.0.1:7777
        until_ grep 'conn pid=.*end=eof' $log
        logrotate -f /etc/logrotate.d/echod
        until_ serves 127.0.0.1:7777
    done
    until_ grep 'conn pid=.*end=eof' $log
    [[ $(stat -L -c %U $log) = echod ]]
    zcat $log.2.gz | grep 'listening on'
    grep 'conn pid=.*end=eof' $log.1
    sed -i -e '/^RUST_LOG/d' -e '/^ECHOD_LOG_TARGET/d' /etc/default/echod
    systemctl restart echod
    echo "$(cd /var/log/echod && echo *), each with the lines of its time"
}

rsyslog() {
    echo 'ECHOD_LOG_TARGET=syslog' >>/etc/default/echod
    systemctl restart echod
    until_ grep 'echod\[[0-9]*\]: listening on' /var/log/syslog
    sed -i '/^ECHOD_LOG_TARGET/d' /etc/default/echod
    systemctl restart echod
    grep -o 'echod\[[0-9]*\]: listening on.*' /var/log/syslog | tail -n 1
}

sockets_on_port_7() {
    systemctl disable --now echod.service
    mkdir -p /etc/systemd/system/echod.socket.d /etc/systemd/system/echod.service.d
    printf '[Socket]\nListenStream=\nListenStream=127.0.0.1:7\nListenDatagram=127.0.0.1:7\n' \
        >/etc/systemd/system/echod.socket.d/ports.conf
    install -m 644 /usr/share/echod/no-network.conf /etc/systemd/system/echod.service.d/
    systemctl daemon-reload
    systemctl enable --now echod.socket
    [[ $(property echod ActiveState) = inactive ]]
    serves tcp:127.0.0.1:7
    serves udp:127.0.0.1:7
    [[ $(property echod ActiveState) = active && $(property echod PrivateNetwork) = yes ]]
    [[ $(readlink "/proc/$(property echod MainPID)/ns/net") != "$(readlink /proc/1/ns/net)" ]]
    echo "started by the first client; TCP, UDP; without a network of its own"
}

sockets_restart_under_load() {
    load tcp:127.0.0.1:7 6 systemctl restart echod
}

sockets_upgrade_under_load() {
    load tcp:127.0.0.1:7 8 dpkg -i "$here/echod.deb"
}

sockets_crash() {
    local pid n
    pid=$(property echod MainPID)
    kill -STOP "$pid"
    # They wait in the queue of a daemon that is about to die.
    pkill -STOP -P "$pid" -x echod-idle
    for n in 1 2 3 4; do echoc --check tcp:127.0.0.1:7 -W 15s & done >"$here/waiting" 2>&1
    until_ test "$(ss -Hltn 'sport = :7' | awk '{ print $2 }')" != 0
    kill -KILL "$pid"
    wait
    cat "$here/waiting"
    [[ $(grep -c -i 'ok' "$here/waiting") = 4 ]]
    until_ is_new "$pid"
    echo "4 of 4 who waited in its queue were served"
}

inetd() {
    systemctl disable --now echod.socket echod.service
    rm -r /etc/systemd/system/echod.socket.d /etc/systemd/system/echod.service.d
    systemctl daemon-reload
    systemctl start echod-inetd.socket
    serves 127.0.0.1:7777
    echoload crr 127.0.0.1:7777 -c 4 -n 40 >"$here/load" 2>&1 || { cat "$here/load"; return 1; }
    [[ $(property echod ActiveState) = inactive ]]
    [[ -z $(systemctl list-units --failed --plain --no-legend 'echod*') ]]
    systemctl stop echod-inetd.socket
    echo "a process for each of 40 clients, none failed"
}

# What is left of a package or an install: files by its names, and its user.
left() {
    find / -xdev \( -path /boot-test -o -path /proc -o -path /sys -o -path /dev \) -prune -o \
        \( -name '*echod*' -o -name '*echoc' -o -name '*echoload*' -o -name 'echoc.*' \) -print
    getent passwd echod || true
}

purge() {
    systemctl start echod.service
    dpkg -r echod
    [[ -e /etc/echod.toml && ! -e /usr/sbin/echod ]]
    [[ $(systemctl is-active echod.service) != active ]]
    apt-get -q purge -y echod
    local all
    all=$(left)
    [[ -z $all ]] || { echo "$all"; return 1; }
    echo "no file, link or user of it"
}

install_sh() {
    cd "$here/tree"
    scripts/install.sh bin
    systemd-sysusers
    systemctl daemon-reload
    systemctl enable --now echod.service
    serves 127.0.0.1:7777
    scripts/install.sh bin
    systemctl restart echod
    until_ serves 127.0.0.1:7777
    systemctl disable --now echod.service
    scripts/install.sh --uninstall
    systemctl daemon-reload
    userdel echod
    rm -rf /var/log/echod /var/log/private/echod
    local all
    all=$(left)
    [[ -z $all ]] || { echo "$all"; return 1; }
    echo "over itself while it ran; an uninstall leaves nothing"
}

install_sh_for_a_user() {
    useradd -m someone
    loginctl enable-linger someone
    chmod -R a+rX "$here/tree"
    until_ test -S "/run/user/$(id -u someone)/bus" -o -S "/run/user/$(id -u someone)/systemd/private"
    # shellcheck disable=SC2016 # they are the other shell's
    runuser -u someone -- env -C "$here/tree" HOME=/home/someone \
        XDG_RUNTIME_DIR="/run/user/$(id -u someone)" PREFIX=/home/someone/.local bash -ec '
            scripts/install.sh bin
            systemctl --user daemon-reload
            systemctl --user enable --now echod.service
            $PREFIX/bin/echoc --check 127.0.0.1:7777
            ps -o user=,args= -C echod
            systemctl --user disable --now echod.service
            scripts/install.sh --uninstall'
    # The log that systemd keeps, as in install_sh.
    rm -r /home/someone/.config/log /home/someone/.local/state/log 2>/dev/null || true
    local all
    all=$(left)
    [[ -z $all ]] || { echo "$all"; return 1; }
    echo "under the user's own systemd"
}

cargo_install() {
    "$here/cargo/bin/echod" -l tcp:127.0.0.1:7009 2>"$here/log" &
    until_ "$here/cargo/bin/echoc" --check 127.0.0.1:7009
    kill %1
    wait %1
    head -n 1 "$here/log"
}

for what in install_the_package start_and_status locked_in journal_with_priorities \
    reload_under_load a_reload_that_is_waited_for stop_lets_clients_finish \
    a_file_with_a_mistake crash watchdog an_instance logrotate_twice rsyslog sockets_on_port_7 sockets_restart_under_load \
    sockets_upgrade_under_load sockets_crash inetd purge install_sh install_sh_for_a_user \
    cargo_install; do
    row "$what"
done
echo "$failed" >"$here/status"
