#!/bin/sh
# One connection through one process design of echod, as one timeline of
# supervisor, child and client: system calls (strace), socket states (ss) and
# processes (ps), in the order in which they happened, with what they mean.
# lesson.awk beside this script chooses what is shown and says why it matters.
#
# At two moments the lesson stops a process with SIGSTOP, so that a state which
# lasts microseconds can be looked at. Without strace the calls are left out.
set -eu

two="--start-servers 2 --min-spare-servers 2 --max-spare-servers 2"
# name | options | what to look for
designs="\
prefork|--model prefork $two|\
The child was forked before there was a client, and accepts itself. One client, and it exits.
prefork-reuse|--model prefork --max-connections-per-child 0 --start-servers 2 --min-spare-servers 1 --max-spare-servers 2|\
The child was forked before there was a client, accepts itself, and lives on after it.
fork-wait|--model fork --reap wait|\
The textbook: the supervisor accepts, forks a child for the client, and waits for its death.
fork-ignore|--model fork --reap ignore|\
As the textbook, but the kernel is told to keep no zombies: nobody learns how the child ended.
fork-double|--model fork --reap double-fork|\
The child forks again and exits, so the grandchild that serves is nobody's child but init's.
iterative|--model iterative|\
One child accepts and serves, one client after the other. No fork for a client, and no company.
accept-fcntl|--accept fcntl $two|\
The children take turns: whoever holds the record lock waits for a client, the others for the lock.
accept-mutex|--accept mutex $two|\
As with the record lock, but the lock is a few bytes of shared memory, and the kernel sees it only when somebody waits.
accept-pass|--accept pass $two|\
The supervisor accepts, and sends the connection to a child through a socket, as a message.
accept-reuseport|--accept reuseport $two|\
Two listening sockets have the one port. The kernel picks one by the client's address; each child looks at its own first.
thread|--model thread|\
One child accepts, and starts a thread for the client. All its threads have the one table of descriptors.
prethread|--model prethread --start-servers 2 --min-spare-servers 1 --max-spare-servers 2|\
One child with threads that were started before there was a client. They sleep on the same listener."

usage() {
    echo "usage: scripts/lesson.sh DESIGN" >&2
    echo "DESIGN is one of: $(echo "$designs" | cut -d'|' -f1 | tr '\n' ' ')" >&2
    exit 64
}
[ $# -eq 1 ] || usage
design=$1
line=$(echo "$designs" | grep "^$design|") || usage
options=$(echo "$line" | cut -d'|' -f2)
story=$(echo "$line" | cut -d'|' -f3)
child=child until_reaped="to show what a dead child is until it is reaped"
case $design in
*reuse | iterative) until_reaped="to show that the next client would not have to wait for it" ;;
*thread) until_reaped="and it is not needed: a thread that ends is no child's death" ;;
fork-ignore) until_reaped="and still no zombie will be seen" ;;
fork-double) child=grandchild until_reaped="and it makes no difference: the grandchild is not its to reap" ;;
esac

has() { command -v "$1" >/dev/null; }
for tool in ss ps; do
    has "$tool" || { echo "lesson.sh: $tool is not installed (Debian: iproute2, procps)" >&2; exit 69; }
done
# A client that sends its end of file when its input ends, and then still reads.
if has nc.openbsd; then client='nc.openbsd -N'
elif has nc && nc -h 2>&1 | grep -q OpenBSD; then client='nc -N'
elif has ncat; then client=ncat
else echo "lesson.sh: a client is missing: install netcat-openbsd or ncat" >&2; exit 69
fi

here=$(cd "$(dirname "$0")" && pwd)
if [ -z "${ECHOD-}" ]; then
    cd "$here/.."
    cargo build --release --quiet
    host=$(rustc -vV | sed -n 's/^host: //p')
    ECHOD=${CARGO_TARGET_DIR:-target}/$host/release/echod
    [ -x "$ECHOD" ] || ECHOD=${CARGO_TARGET_DIR:-target}/release/echod
fi

tmp=$(mktemp -d) server='' supervisor='' worker='' talker='' frozen=''
cleanup() {
    trap - EXIT INT TERM HUP
    exec 4>&-
    # shellcheck disable=SC2086 # pids are words
    [ -z "$frozen" ] || kill -CONT $frozen 2>/dev/null || :
    [ -z "$talker" ] || wait "$talker" 2>/dev/null || :
    if [ -n "$supervisor" ]; then
        # INT does not wait for clients.
        kill -INT "$supervisor" 2>/dev/null || :
    elif [ -n "$server" ]; then
        kill "$server" 2>/dev/null || :
    fi
    [ -z "$server" ] || wait "$server" 2>/dev/null || :
    rm -rf "$tmp"
}
trap cleanup EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
exec 4>/dev/null

# until_true WHAT COMMAND...: polls. All waits together have these seconds,
# then the lesson is given up; a busy machine may be given more.
limit=${LESSON_SECONDS:-8}
began=$(date +%s)
until_true() {
    what=$1
    shift
    until "$@"; do
        [ $(($(date +%s) - began)) -lt "$limit" ] || {
            echo "lesson.sh: waited in vain for $what" >&2
            cat "$tmp/log" >&2
            exit 1
        }
        sleep 0.02
    done
}

# event KIND PID TEXT: a line of the timeline, as of now.
event() { printf '%s\t%s\t%s\t%s\n' "$(date +%s.%N)" "$@" >>"$tmp/events"; }

# The port may have had another life, whose clients are still in TIME-WAIT.
old=''
sockets() {
    ss -Htanp "( sport = :$port or dport = :$port )" |
        awk -v old="$old" '$1 != "TIME-WAIT" || index(old, " " $4 $5 " ") == 0'
}
state_of_client() { sockets | awk -v port=":$port" 'substr($5, length($5) - length(port) + 1) == port { print $1 }'; }
client_is() { state_of_client | grep -qx "$1"; }
echoed() { grep -q hello "$tmp/echo"; }
# Whoever holds the server's end; the supervisor's copy does not count.
find_worker() {
    worker=$(sockets | awk -v port=":$port" '
        $1 == "ESTAB" && substr($4, length($4) - length(port) + 1) == port' |
        tr ',' '\n' | sed -n 's/^pid=//p' | sort -u)
    case $worker in '' | *[!0-9]* | "$supervisor") return 1 ;; esac
}
# Dead, or back in wait for another client.
has_ended() {
    case $(ps -o stat=,comm= -p "$worker") in '' | Z* | *-idle | *-thread) ;; *) return 1 ;; esac
}
# No zombie of the supervisor's: gone, alive, or another process' to reap.
is_reaped() { ! ps -o stat=,ppid= -p "$worker" | grep -q "^Z.* $supervisor\$"; }

# look: socket states and processes, at one moment.
look() {
    at=$(date +%s.%N)
    sockets | awk -v port=":$port" -v at="$at" '
        {
            held = ""
            while (match($0, /"[^"]*",pid=[0-9]+/)) {
                one = substr($0, RSTART, RLENGTH); $0 = substr($0, RSTART + RLENGTH)
                gsub(/"|pid=/, "", one); sub(/,/, " ", one)
                held = held (held == "" ? "" : ", ") one
            }
        }
        { print "" held }' >"$tmp/holders"
    sockets | paste - "$tmp/holders" | awk -v port=":$port" -v at="$at" '
        function ends(text) { return substr(text, length(text) - length(port) + 1) == port }
        {
            holders = $0; sub(/.*\t/, "", holders)
            end = $1 == "LISTEN" ? "listener" : ends($4) ? "server end" : "client end"
            queue = $1 == "LISTEN" ? $2 " in the queue" : $2 " unread"
            # A FIN that was not read yet counts for one byte.
            if ($1 == "CLOSE-WAIT" && $2 == 1) queue = "the FIN unread"
            printf "%s\tsocket\t0\t%-10s  %-10s  %-14s  %s\n", at, end, $1, queue,
                holders == "" ? "(no process: the kernel keeps it)" : "open in: " holders
        }' >>"$tmp/events"
    ps -eo pid=,ppid=,stat=,comm= | awk -v top="$supervisor" -v worker="$worker" -v at="$at" '
        $1 == top || $2 == top || $1 == worker {
            what = "sleeps"
            if ($3 ~ /^[Tt]/) what = "stopped, by the lesson"
            if ($3 ~ /^Z/) what = "zombie: dead, and its parent has not asked yet"
            if ($3 ~ /^Z/ && $2 != top) what = "dead; to reap it is the business of its new parent, " $2
            else if ($2 != top && $1 != top) what = what "; its parent is " $2
            name = ($1 == top ? "" : $2 == top ? "\\_ " : "   ") $4
            sub(/^ */, "", name)
            printf "%s\tprocess\t0\t%-17s %6d  %s\n", at, name, $1, what
        }' >>"$tmp/events"
    case $design in *thread) ;; *) return ;; esac
    ps -eLo pid=,lwp=,ppid=,comm= | awk -v top="$supervisor" -v at="$at" '
        $3 == top && $1 != $2 {
            printf "%s\tprocess\t0\t    %-13s %6d  a thread of %s\n", at, $4, $2, $1
        }' >>"$tmp/events"
}

# freeze PID and thaw PID: SIGSTOP and SIGCONT.
freeze() {
    kill -STOP "$1" && frozen="$frozen $1"
    until_true "a stopped process" is_stopped "$1"
}
is_stopped() { ps -o stat= -p "$1" | grep -q '^[Tt]'; }
thaw() { kill -CONT "$1"; }

trace() { shift; "$@"; }
if has strace && strace -o /dev/null true 2>/dev/null; then
    calls=network,process,read,write,close,close_range,ppoll,epoll_wait,epoll_pwait,prctl,pselect6
    case $design in
    *fcntl) calls=$calls,fcntl ;;
    *mutex) calls=$calls,futex ;;
    esac
    trace() {
        name=$1
        shift
        exec strace -ff -T -ttt -yy -s 32 -e trace="$calls" -o "$tmp/$name" "$@"
    }
fi
: >"$tmp/events"
mkfifo "$tmp/ready" "$tmp/typed"

event step 0 "1. The server starts"
# shellcheck disable=SC2086 # the options are words
trace server "$ECHOD" $options --sandbox off -l tcp:127.0.0.1:0 --ready-fd 3 \
    3>"$tmp/ready" 2>"$tmp/log" 4>&- &
server=$!
addr=
read -r addr <"$tmp/ready" || { cat "$tmp/log" >&2; exit 1; }
port=${addr##*:}
old=" $(sockets | awk '$1 == "TIME-WAIT" { printf "%s%s ", $4, $5 }')"
supervisor=$(ps -o pid=,comm= --pid "$server" --ppid "$server" | awk '$2 ~ /^echod/ { print $1; exit }')
sleep 0.2 # for workers to reach their wait; nothing later depends on it
look

event step 0 "2. The client connects"
# shellcheck disable=SC2086
trace client $client 127.0.0.1 "$port" <"$tmp/typed" >"$tmp/echo" 2>/dev/null 4>&- &
talker=$!
exec 4>"$tmp/typed"
until_true "a child that holds the connection" find_worker
event mark 0 "HANDSHAKE: done by the two kernels. Both ends are ESTAB."
sleep 0.05
look

event step 0 "3. The client sends a line"
echo hello >&4
until_true "the echo" echoed
look

event step 0 "4. The client has no more to send"
freeze "$worker"
event note 0 "The lesson stops $child $worker for a moment, to show what comes between the two FINs."
exec 4>&-
until_true "the client's FIN" client_is FIN-WAIT-2
event mark 0 "FIN 1 of 2, the client's: sent and acknowledged. It can still receive."
look

event step 0 "5. The server has no more to send"
freeze "$supervisor"
event note 0 "The $child goes on. Now the supervisor is stopped, $until_reaped."
thaw "$worker"
until_true "the server's FIN" client_is TIME-WAIT
event mark 0 "FIN 2 of 2, the server's. The client sent its FIN first, so it has the TIME-WAIT."
until_true "the end of the service" has_ended
look

event step 0 "6. The supervisor learns of it"
event note 0 "The supervisor goes on."
thaw "$supervisor"
until_true "the reaping" is_reaped
sleep 0.2 # what follows the reaping belongs to this step
case $design in
*reuse | iterative) event mark 0 "NOT YET REAPED: child $worker lives, and waits for its next client." ;;
*thread) event mark 0 "NOT YET REAPED: child $worker lives. What ended was a connection, for which nobody dies." ;;
fork-double) event mark 0 "REAPED: the middle child long ago; of $worker the supervisor hears by a channel only." ;;
fork-ignore) event mark 0 "REAPED: by the kernel, at once. There was no zombie, and there is no exit status." ;;
*) event mark 0 "REAPED: child $worker has left the table of processes, and its status was read." ;;
esac
look

event step 0 "7. The server stops"
kill -TERM "$supervisor"
status=0
wait "$server" || status=$?
case $design in
*reuse | iterative | *thread) event mark 0 "REAPED: child $worker, now that the server stops." ;;
esac
event note 0 "echod ended with status $status, and nothing is left of it."
[ -z "$(ps -o pid= -p "$worker")" ] ||
    event note 0 "But process$(ps -o ppid= -p "$worker" | sed 's/  */ /') has not reaped $worker yet."
supervisor_was=$supervisor
server='' supervisor=''
wait "$talker" || :
talker=''

echo "$design: echod $options"
echo "$story"
color=
[ ! -t 1 ] || [ -n "${NO_COLOR-}" ] || color=yes
cd "$tmp"
for file in server.* client.*; do
    [ -e "$file" ] || { echo "(strace is not usable here: no system calls, only what ss and ps show)"; break; }
    awk -v pid="${file##*.}" -v side="${file%%.*}" -v pass=1 -f "$here/lesson.awk" "$file"
done >>calls
grep '^(' calls || :
grep -v '^(' calls | cat - events | sort -s -n -k1,1 |
    awk -v pass=2 -v design="$design" -v color="$color" -v supervisor="$supervisor_was" -v worker="$worker" -f "$here/lesson.awk"
[ "$status" -eq 0 ]
