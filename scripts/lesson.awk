# The reader of scripts/lesson.sh. Pass 1 turns a file of strace(1) into lines
# "TIME KIND PID TEXT"; pass 2 has all of them in order, chooses, and explains.
# A call that may wait is placed where it returned, any other where it began,
# so that a cause stands before its effect.
BEGIN { FS = "\t" }

# --- Pass 1 -----------------------------------------------------------------

function spent(text) { return match(text, /<[0-9.]+>$/) ? substr(text, RSTART + 1, RLENGTH - 2) : 0 }

# The call as C would write it, with names in place of numbers and addresses.
function plain(text) {
    sub(/ *<[0-9.]+>$/, "", text)
    gsub(/[0-9]+<TCP:\[[0-9.:]+->[0-9.:]+\]>/, "connection", text)
    gsub(/[0-9]+<TCP:\[[0-9.]+:[0-9]+\]>/, "listener", text)
    gsub(/[0-9]+<TCP:\[[0-9]+\]>/, "socket", text)
    gsub(/[0-9]+<anon_inode:\[eventfd\]>/, "eventfd", text)
    gsub(/[0-9]+<anon_inode:\[eventpoll\]>/, "epoll", text)
    gsub(/[0-9]+<pipe:\[[0-9]+\]>/, "pipe", text)
    gsub(/[0-9]+<UNIX-STREAM:\[[0-9]+->[0-9]+\]>/, "channel", text)
    while (match(text, /\{sa_family=AF_INET,[^}]*\}/)) {
        one = substr(text, RSTART, RLENGTH)
        before = substr(text, 1, RSTART - 1); after = substr(text, RSTART + RLENGTH)
        port = one; sub(/.*htons\(/, "", port); sub(/\).*/, "", port)
        host = one; sub(/.*inet_addr\("/, "", host); sub(/".*/, "", host)
        text = before host ":" port after
    }
    gsub(/, 0x[0-9a-f]+/, "", text)
    if (text ~ /^setsockopt/) sub(/\[1\], 4\)/, "1)", text)
    gsub(/, \[[0-9]+( => [0-9]+)?\]/, "", text)
    gsub(/\|?SOCK_(CLOEXEC|NONBLOCK)|, IPPROTO_(IP|TCP)/, "", text)
    sub(/, \) =/, ") =", text)
    sub(/^clone\(.*\)/, "fork()", text)
    sub(/^clone3\(.*\)/, "fork()", text)
    sub(/[ \t]+= /, " = ", text)
    sub(/ \([A-Z][a-z ]*\)$/, "", text)
    return text
}

pass == 1 {
    at = $0; sub(/ .*/, "", at)
    text = substr($0, length(at) + 2)
    if (text ~ /^\+\+\+/ || text ~ /ERESTART/ || text ~ /EINTR/) next
    waits = text ~ /^(read|recvfrom|ppoll|poll|pselect6|epoll_wait|epoll_pwait)\(/
    printf "%.6f\t%s\t%s\t%s\n", at + (waits ? spent(text) : 0), side, pid, plain(text)
    next
}

# --- Pass 2 -----------------------------------------------------------------

function paint(code, text) { return color ? "\033[" code "m" text "\033[0m" : text }

function label(pid) {
    if (pid == supervisor) return paint("34", sprintf("%-16s", "supervisor"))
    if (kind == "client") return paint("33", sprintf("%-16s", "client"))
    return paint("32", sprintf("%-16s", (pid in grandchild ? "grandchild " : "child ") pid))
}

function say(text, why) {
    printf "%9.1f  %s %s\n", ($1 - began) * 1000, label($3), paint("1", text)
    lines = split(why, part, "|")
    for (i = 1; i <= lines; i++) printf "%28s %s\n", "", paint("2", (i == 1 ? "`- " : "   ") part[i])
}

NR == 1 { began = $1 }
{ kind = $2; call = $4; result = call; sub(/.* = /, "", result) }

kind == "step" { printf "\n%s\n", paint("1;4", call); shown = ""; next }
kind == "note" { printf "%9s  %s\n", "", paint("3", call); next }
kind == "mark" { printf "%9s  %s\n", "", paint("1;35", "*** " call); next }
kind == "socket" || kind == "process" {
    if (shown != kind $1) printf "%9.1f  %s\n", ($1 - began) * 1000, kind == "socket" ? "ss: sockets" : "ps: processes"
    shown = kind $1
    printf "%13s%s\n", "", call
    next
}

# The client.
kind == "client" && call ~ /^connect\(socket, 127/ {
    sub(/, [0-9]+\).*/, ")", call)
    say(call, "HANDSHAKE: this call sends SYN; the server's kernel answers SYN-ACK by itself,|the client's sends ACK. No process of the server takes part.")
}
kind == "client" && call ~ /^(write|sendto|send)\(connection/ { say(call, "a line leaves as one segment") }
kind == "client" && call ~ /^(read|recvfrom)\(connection/ {
    sub(/, [0-9]+\)/, ")", call)
    if (result == 0) say(call, "0 is end of file: the server's FIN has come")
    else say(call, "the echo is back")
}
kind == "client" && call ~ /^shutdown\(connection, SHUT_WR/ {
    say(call, "FIN 1 of 2: \"I have no more to send\". The other direction stays open.")
}
kind == "client" && call ~ /^close\(connection/ { say(call, "") }
kind == "client" { next }

# What both supervisor and children do.
call ~ /^(fork|clone|vfork)\(/ {
    if ($3 != supervisor) {
        grandchild[result] = 1
        say(call, "the second fork: its child will serve")
    } else if (accepted) say(call, "a child for " (took == supervisor ? "this client. Both now hold the connection." : "the next client, since one child is taken"))
    else say(call, "a child, before there is a client")
    next
}
call ~ /^accept4?\(/ && result == "connection" {
    accepted = 1; took = $3
    say(call, "takes the finished connection out of the kernel's queue; no segment is sent")
    next
}
call ~ /^accept4?\(/ && $3 == worker && accepted && !stopping { say(call, "is there another one? Not now."); next }
call ~ /^close\(connection/ && $3 == supervisor {
    say(call, "gives its own copy up. No FIN: the child holds another.|A server that forgets this keeps every client waiting for the end.")
    next
}
call ~ /^close\(connection/ {
    say(call, "FIN 2 of 2: this was the last copy, so the kernel sends the FIN. The child lives on.")
    next
}
call ~ /^SIG/ || call ~ /^---/ {
    if (call ~ /SIGTERM/) { stopping = 1; say("SIGTERM", "asked to stop") }
    else if (call ~ /SIGCHLD/ && call ~ /CLD_(EXITED|KILLED|DUMPED)/) {
        dead = call; sub(/.*si_pid=/, "", dead); sub(/,.*/, "", dead)
        say("SIGCHLD, child " dead, "some child has died. One signal may stand for several deaths.")
    } else if (call ~ /SIGCHLD/ && call ~ /CLD_CONTINUED/ && ended) {
        say("SIGCHLD, about the SIGCONT", "the death came while this one was pending, and signals of a kind do not queue:|" \
            "a server that counts signals would miss it. So it asks.")
    }
    next
}

# The supervisor.
$3 == supervisor && call ~ /^socket\(AF_INET/ { say(call, ""); next }
$3 == supervisor && call ~ /^setsockopt\(socket.*SO_REUSEADDR/ {
    say(call, "so that a restart can bind while old connections are in TIME-WAIT"); next
}
$3 == supervisor && call ~ /^bind\(/ { say(call, "port 0: the kernel picks one"); next }
$3 == supervisor && call ~ /^listen\(/ { say(call, "from here on the kernel answers SYNs, whoever sleeps"); next }
$3 == supervisor && call ~ /^ppoll\(.*revents/ && call ~ /listener/ && !accepted {
    say("ppoll(..., listener, ...) = 1", "woken: a connection is complete, and waits in the queue"); next
}
$3 == supervisor && call ~ /^socketpair\(/ {
    say("socketpair() = channel, channel", "the grandchild's death will close its end: the only news the supervisor gets"); next
}
$3 == supervisor && call ~ /^read\(eventfd/ && !stopping { say("read(eventfd)", "hears that a child is taken, or free again"); next }
$3 == supervisor && call ~ /^close\(channel/ && closed_channel++ {
    say("close(channel)", "end of file on the channel: the grandchild is gone, its place is free"); next
}
$3 == supervisor && call ~ /^wait(4|pid|id)\(/ {
    sub(/, WNOHANG, NULL/, ", WNOHANG", call)
    sub(/\[\{WIFEXITED.*WEXITSTATUS\(s\) == /, "status ", call); sub(/\}\]/, "", call)
    if (result > 0 && result == worker) say(call, "REAPED: the zombie is gone, its exit status is known")
    else if (result > 0) say(call, worker in grandchild && !stopping ? "REAPED at once: the middle child.|The grandchild is now an orphan, and init's to reap." : "another child reaped")
    else if (call ~ "^wait4\\(" worker "[,)].*ECHILD") say(call, "REAPED by the kernel: \"no such child\" is how the supervisor learns it")
    next
}
$3 == supervisor && stopping && call ~ /SO_ATTACH_FILTER|SO_BINDTOIFINDEX/ && result == 0 {
    say(call, "the tap is closed before the bucket is emptied: no new handshake begins"); next
}
$3 == supervisor && stopping && call ~ /^close\(pipe/ && !piped++ { say("close(pipe)", "children read end of file from it, and go"); next }
$3 == supervisor && stopping && call ~ /^accept4?\(/ { say(call, "the queue is empty: nobody is lost"); next }
$3 == supervisor && call ~ /^close\(listener/ { say(call, "the last copy of the listener: the port is free"); next }
$3 == supervisor && call ~ /^exit/ { say(call, "") ; next }
$3 == supervisor { next }

# Children. Those that do not serve are noise, but for their beginning and end.
call ~ /^exit/ {
    if ($3 == worker) ended = 1
    why = call ~ /\(10\)/ ? "10 tells the supervisor: retired, not failed" : ""
    if ($3 == worker && !stopping) why = "FIN 2 of 2: exit closes what is open, the last copy of the connection too"
    else if (worker in grandchild) why = "the middle child is done"
    say(call, why)
    next
}
call ~ /PR_SET_NAME, "echod-idle"/ {
    say(call, $3 == worker && accepted ? "free again: back to sleep on the listener" : "ready: it sleeps on the listener, its name in ps says so")
    next
}
$3 != worker { next }
call ~ /^epoll_wait\(.*EPOLLIN/ && !accepted { say("epoll_wait(listener, pipe) = 1", "woken: of all who wait, the kernel wakes one"); next }
call ~ /^write\(eventfd/ && !served[$3]++ { say("write(eventfd)", "tells the supervisor: I am taken"); next }
call ~ /^write\(eventfd/ { say("write(eventfd)", "tells the supervisor: I am free again"); next }
call ~ /PR_SET_NAME, "echod-conn"/ { say(call, "its name in ps from now on"); next }
call ~ /^close_range\(/ && !ranged++ { say("close_range(all but the connection)", "the listener too: a child that kept it would keep the port busy"); next }
call ~ /^read\(connection/ {
    sub(/, [0-9]+\)/, ")", call)
    if (result == 0) say(call, "0 is end of file: the client's FIN. All that came before it has been echoed.")
    else say(call, "slept here until the line came")
    next
}
call ~ /^write\(connection/ { say(call, "and back it goes, the same bytes"); next }
call ~ /^read\(pipe, "", 1\)/ { say("read(pipe) = 0", "end of file: the generation retires"); next }
