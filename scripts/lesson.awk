# The reader of scripts/lesson.sh. Pass 1 turns a file of strace(1) into lines
# "TIME KIND PID TEXT"; pass 2 has all of them in order, chooses, and explains.
# A call that may wait is placed where it returned, any other where it began,
# so that a cause stands before its effect.
BEGIN { FS = "\t" }

# --- Pass 1 -----------------------------------------------------------------

function spent(text) { return match(text, /<[0-9.]+>$/) ? substr(text, RSTART + 1, RLENGTH - 2) : 0 }

# The bytes of a string as strace writes it, into byte[1] and on.
function decode(text, n) {
    n = 0
    while (text != "") {
        if (match(text, /^\\[0-7][0-7]?[0-7]?/)) {
            byte[++n] = 0
            for (i = 2; i <= RLENGTH; i++) byte[n] = byte[n] * 8 + substr(text, i, 1)
        } else if (match(text, /^\\./)) {
            byte[++n] = index("tnvfr", substr(text, 2, 1)) ? index("tnvfr", substr(text, 2, 1)) + 8 : code[substr(text, 2, 1)]
        } else {
            RLENGTH = 1
            byte[++n] = code[substr(text, 1, 1)]
        }
        text = substr(text, RLENGTH + 1)
    }
}

# What was read from the signalfd, in the words of a signal: signalfd(2) has its
# number, two words on why, then whose it was.
function heard(text) {
    if (!("A" in code)) for (i = 1; i < 128; i++) code[sprintf("%c", i)] = i
    sub(/^[^"]*"/, "", text); sub(/"[.]*, [0-9]+\) +=.*/, "", text)
    decode(text)
    if (byte[1] == 15) return "SIGTERM"
    if (byte[1] != 17) return "SIG" byte[1]
    why = byte[9] == 1 ? "EXITED" : byte[9] == 2 ? "KILLED" : byte[9] == 3 ? "DUMPED" : byte[9] == 6 ? "CONTINUED" : "STOPPED"
    return "SIGCHLD CLD_" why " si_pid=" byte[13] + 256 * byte[14] + 65536 * byte[15] ","
}

# The call as C would write it, with names in place of numbers and addresses.
function plain(text) {
    if (text ~ /^read\([0-9]+<anon_inode:\[signalfd\]>, "/) return heard(text)
    sub(/ *<[0-9.]+>$/, "", text)
    sub(/^sendmsg\(.*SCM_RIGHTS.*\) += /, "sendmsg(channel, SCM_RIGHTS: connection) = ", text)
    sub(/^recvmsg\(.*SCM_RIGHTS.*\) += /, "recvmsg(channel, SCM_RIGHTS: connection) = ", text)
    sub(/^fcntl\(.*F_SETLKW, .*F_WRLCK.*\) += /, "fcntl(lock, F_SETLKW, F_WRLCK) = ", text)
    sub(/^fcntl\(.*F_SETLK, .*F_WRLCK.*\) += /, "fcntl(lock, F_SETLK, F_WRLCK) = ", text)
    sub(/^fcntl\(.*F_SETLKW?, .*F_UNLCK.*\) += /, "fcntl(lock, F_SETLK, F_UNLCK) = ", text)
    if (text ~ /^futex\(.*_WAIT/) sub(/^.*\) +=/, "futex(mutex, FUTEX_WAIT) =", text)
    if (text ~ /^futex\(.*_WAKE/) sub(/^.*\) +=/, "futex(mutex, FUTEX_WAKE) =", text)
    sub(/^clone3?\(.*CLONE_THREAD.*\) +=/, "clone(CLONE_THREAD) =", text)
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
    if (text ~ /^bind/) sub(/, [0-9]+\)/, ")", text)
    if (text !~ /CLONE_THREAD/) sub(/^clone3?\(.*\)/, "fork()", text)
    sub(/[ \t]+= /, " = ", text)
    sub(/ \([A-Z][a-z ]*\)$/, "", text)
    return text
}

pass == 1 {
    at = $0; sub(/ .*/, "", at)
    text = substr($0, length(at) + 2)
    if (text ~ /^\+\+\+/ || text ~ /ERESTART/ || text ~ /EINTR/) next
    waits = text ~ /^(read|recvfrom|ppoll|poll|pselect6|epoll_wait|epoll_pwait|recvmsg|futex)\(/ || text ~ /F_SETLKW/
    printf "%.6f\t%s\t%s\t%s\n", at + (waits ? spent(text) : 0), side, pid, plain(text)
    next
}

# --- Pass 2 -----------------------------------------------------------------

function paint(code, text) { return color ? "\033[" code "m" text "\033[0m" : text }

function label(pid) {
    if (pid == supervisor) return paint("34", sprintf("%-16s", "supervisor"))
    if (kind == "client") return paint("33", sprintf("%-16s", "client"))
    if (pid in process) return paint("36", sprintf("%-16s", "thread " pid))
    return paint("32", sprintf("%-16s", (pid in grandchild ? "grandchild " : "child ") pid))
}

function say(text, why) {
    printf "%9.1f  %s %s\n", ($1 - began) * 1000, label($3), paint("1", text)
    lines = split(why, part, "|")
    for (i = 1; i <= lines; i++) printf "%28s %s\n", "", paint("2", (i == 1 ? "`- " : "   ") part[i])
}

# What is the same each time is explained the first time.
function tell(text, why) { say(text, why in told ? "" : why); told[why] }

NR == 1 { began = $1 }
{ kind = $2; call = $4; proc = $3 in process ? process[$3] : $3; result = call; sub(/.* = /, "", result) }

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

# Threads. The first of a process is gone at once: with it the C library does
# what it does once, see prepare_for_threads in src/sys/process.rs.
call ~ /^clone\(CLONE_THREAD/ {
    process[result] = proc
    if (!threads[proc]++) unseen[result] = 1
    else if (accepted && took == $3) say(call, "a thread for this client. Nothing is copied and nothing is to be closed:|there is one table of descriptors for all threads.")
    else say(call, accepted ? "another thread, for the next client" : "a thread, before there is a client")
    next
}
$3 in unseen { next }
$3 in process && call ~ /^exit\(/ {
    say(call, "the end of the thread: no zombie and no SIGCHLD, its process goes on")
    next
}

# What both supervisor and children do.
call ~ /^(fork|clone|vfork)\(/ {
    if ($3 != supervisor) {
        grandchild[result] = 1
        say(call, "the second fork: its child will serve")
    } else if (accepted) say(call, "a child for " (design == "accept-pass" ? "the next client. It inherits what is open, the copy of the connection too." : took == supervisor ? "this client. Both now hold the connection." : "the next client, since one child is taken"))
    else say(call, "a child, before there is a client")
    next
}
call ~ /^accept4?\(/ && result == "connection" {
    accepted = 1; took = $3
    say(call, "takes the finished connection out of the kernel's queue; no segment is sent")
    next
}
call ~ /^accept4?\(/ && proc == worker && accepted && !stopping { say(call, "is there another one? Not now."); next }
call ~ /^close\(connection/ && $3 == supervisor {
    say(call, "gives its own copy up. No FIN: the child holds another.|A server that forgets this keeps every client waiting for the end.")
    next
}
call ~ /^close\(connection/ && proc != worker {
    say(call, "closes the copy that it inherited, first of all: it would keep the FIN from the client")
    next
}
call ~ /^close\(connection/ && $3 in process {
    say(call, "FIN 2 of 2: threads share one descriptor, so this is the last copy. The process lives on.")
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
        tell("SIGCHLD, child " dead, "some child has died. One signal may stand for several deaths.")
    } else if (call ~ /SIGCHLD/ && call ~ /CLD_CONTINUED/ && ended) {
        say("SIGCHLD, about the SIGCONT", "the death came while this one was pending, and signals of a kind do not queue:|" \
            "a server that counts signals would miss it. So it asks.")
    }
    next
}

# The supervisor.
$3 == supervisor && call ~ /^socket\(AF_INET/ { say(call, ""); next }
$3 == supervisor && call ~ /^setsockopt\(socket.*SO_REUSEADDR/ {
    tell(call, "so that a restart can bind while old connections are in TIME-WAIT"); next
}
$3 == supervisor && call ~ /^bind\(/ {
    say(call, call ~ /:0\)/ ? "port 0: the kernel picks one" : "the port of the first: a second queue")
    next
}
$3 == supervisor && call ~ /^setsockopt\(.*SO_REUSEPORT/ {
    say(call, call ~ /listener/ ? "only now: bound alone first, so a second echod fails and does not share" : "so that it may have the port of the first")
    next
}
$3 == supervisor && call ~ /^listen\(/ { tell(call, "from here on the kernel answers SYNs, whoever sleeps"); next }
$3 == supervisor && call ~ /^ppoll\(.*revents/ && call ~ /listener/ && !accepted {
    say("ppoll(..., listener, ...) = 1", "woken: a connection is complete, and waits in the queue"); next
}
$3 == supervisor && call ~ /^socketpair\(/ {
    say("socketpair() = channel, channel", design == "accept-pass" ? "by this the next child will be given its client" : "the grandchild's death will close its end: the only news the supervisor gets"); next
}
$3 == supervisor && call ~ /^read\(eventfd/ && !stopping { say("read(eventfd)", "hears that a child is taken, or free again"); next }
$3 == supervisor && call ~ /^sendmsg\(channel, SCM_RIGHTS/ {
    say(call, "passes the connection to an idle child, and keeps its own copy|until that child has said that it is taken")
    next
}
$3 == supervisor && design == "fork-double" && call ~ /^close\(channel/ && closed_channel++ {
    say("close(channel)", "end of file on the channel: the grandchild is gone, its place is free"); next
}
$3 == supervisor && call ~ /^wait(4|pid|id)\(/ {
    sub(/, WNOHANG, NULL/, ", WNOHANG", call)
    sub(/\[\{WIFEXITED.*WEXITSTATUS\(s\) == /, "status ", call); sub(/\}\]/, "", call)
    if (result > 0 && result == worker) say(call, "REAPED: the zombie is gone, its exit status is known")
    else if (result > 0) say(call, worker in grandchild && !stopping ? "REAPED at once: the middle child.|The grandchild is now an orphan, and init's to reap." : "")
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
    if (proc == worker) ended = 1
    why = call ~ /\(10\)/ ? "10 tells the supervisor: retired, not failed" : ""
    if (proc == worker && !stopping) why = "FIN 2 of 2: exit closes what is open, the last copy of the connection too"
    else if (worker in grandchild) why = "the middle child is done"
    tell(call, why)
    next
}
call ~ /PR_SET_NAME, "echod-idle"/ {
    place = "on the listener, its name in ps says so"
    if (design == "accept-pass") place = "on its channel; it has no listener at all"
    if (design == "accept-reuseport") place = "on both listeners, its name in ps says so"
    if (design ~ /fcntl|mutex/) place = "in the lock, or on the listener if it holds it"
    if ($3 in process) place = "on the listener, its name in ps -L says so"
    again = accepted && proc == worker && ($3 == worker || $3 == took)
    tell(call, again ? "free again: back to sleep on the listener" : "ready: it sleeps " place)
    next
}
call ~ /^fcntl\(lock.*F_WRLCK.*EAGAIN/ {
    if (!refused++) say(call, "another child holds it, so this one will sleep in the lock")
    next
}
call ~ /^fcntl\(lock.*F_WRLCK/ {
    say(call, stopping ? "has the lock, and finds the word to go: the idle leave in single file" : "has the lock: of the idle, it alone waits at the listener now")
    next
}
call ~ /^fcntl\(lock.*F_UNLCK/ {
    say(call, "gives the lock back" (stopping ? "" : " before it serves: the next one may wait"))
    next
}
call ~ /^futex\(mutex, FUTEX_WAIT.* = 0/ { say(call, "slept in the mutex; now it is the one that waits at the listener"); next }
call ~ /^futex\(mutex, FUTEX_WAKE.* = 1/ { say(call, "gives the mutex back" (stopping ? "" : " before it serves") ": another wakes"); next }
proc != worker { next }
call ~ /^recvmsg\(channel, SCM_RIGHTS/ { say(call, "a descriptor of the same connection: there are two copies now"); next }
call ~ /^epoll_p?wait\(.*EPOLLIN/ && !accepted {
    say("epoll_wait(listener, pipe) = 1", woken++ ? "woken too: the client was still in the queue when it looked" : design ~ /fcntl|mutex/ ? "woken: it alone waits here" : "woken: of all who wait, the kernel wakes one")
    next
}
call ~ /^write\(eventfd/ && (stopping || $3 in process || worker in threads) { next }
call ~ /^write\(eventfd/ && !served[$3]++ { say("write(eventfd)", "tells the supervisor: I am taken"); next }
call ~ /^write\(eventfd/ { say("write(eventfd)", "tells the supervisor: I am free again"); next }
call ~ /PR_SET_NAME, "echod-conn"/ { say(call, "its name in ps from now on"); next }
call ~ /^close_range\(/ && !ranged++ { say("close_range(all but the connection)", design == "accept-pass" ? "and it never had the listener: nothing can keep the port busy" : "the listener too: a child that kept it would keep the port busy"); next }
call ~ /^read\(connection/ {
    sub(/, [0-9]+\)/, ")", call)
    if (result == 0) say(call, "0 is end of file: the client's FIN. All that came before it has been echoed.")
    else say(call, "slept here until the line came")
    next
}
call ~ /^write\(connection/ { say(call, "and back it goes, the same bytes"); next }
call ~ /^read\(pipe, "", 1\)/ { say("read(pipe) = 0", "end of file: the generation retires"); next }
