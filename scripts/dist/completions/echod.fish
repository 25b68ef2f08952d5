complete -c echod -s l -l listen -d 'Where to serve, such as `tcp:[::1]:7`, `unix:PATH` or `udp:*:7`; repeatable' -r
complete -c echod -l service -d 'What is served where a listener\'s service= says nothing' -r -f -a "echo\t'what comes is sent back (RFC 862)'
command\t'a line names one of --allow-command'"
complete -c echod -l allow-command -d 'A command that clients may ask for by NAME, with fixed arguments; repeatable' -r
complete -c echod -s m -l model -d 'Process design' -r -f -a "prefork\t'workers forked in advance each accept'
fork\t'the supervisor accepts and forks'
iterative\t'one worker, one client at a time'
thread\t'one worker, a thread for each connection'
prethread\t'one worker, a pool of threads'"
complete -c echod -l reap -d 'How fork gets rid of its dead' -r -f -a "wait\t'SIGCHLD and waitpid'
ignore\t'SIGCHLD ignored, the kernel reaps'
double-fork\t'the child forks again, init reaps'"
complete -c echod -l accept -d 'How a pool\'s workers or threads come by a connection' -r -f -a "shared\t'all wait on one queue, the kernel wakes one'
fcntl\t'one at a time waits, under a record lock'
mutex\t'one at a time waits, under a mutex (between processes, a robust one)'
pass\t'the supervisor (or main thread) accepts and passes the descriptor'
reuseport\t'as many TCP sockets as --start-servers'"
complete -c echod -l start-servers -d 'Workers forked, or threads started, at start' -r
complete -c echod -l min-spare-servers -d 'Fork, or start, more when fewer than this wait' -r
complete -c echod -l max-spare-servers -d 'Retire some when more than this wait' -r
complete -c echod -s c -l max-clients -d 'Connections, and so serving processes or threads, at once' -r
complete -c echod -l max-connections-per-child -d 'Connections a worker serves before it is replaced; 0 is no limit' -r
complete -c echod -l backlog -d 'Length of the accept queue; somaxconn is the kernel\'s limit' -r
complete -c echod -l overflow -d 'What happens to clients beyond --max-clients' -r -f -a "queue\t'wait in the accept queue'
close\t'accept and close'
reset\t'accept and reset'"
complete -c echod -l idle-timeout -d 'End a connection that sends nothing for this long; off is no limit' -r
complete -c echod -l write-timeout -d 'End a connection that reads nothing for this long; off is no limit' -r
complete -c echod -l max-lifetime -d 'End a connection after this long; off is no limit' -r
complete -c echod -l keepalive -d 'When a silent TCP client is asked whether it is there, how often, how many times' -r
complete -c echod -l allow -d 'Serve clients from this address or network, or uid:N or gid:N; repeatable' -r
complete -c echod -l deny -d 'Refuse clients from there; the longest prefix decides; repeatable' -r
complete -c echod -l max-per-source -d 'Connections at once per source /32 or /64, or such networks; off is no limit' -r
complete -c echod -l connection-rate -d 'New connections; the excess waits in the queue; off is no limit' -r
complete -c echod -l exempt -d 'Clients that count for neither of the last two; repeatable' -r
complete -c echod -l udp-rate -d 'Datagrams answered per source /24 or /56; twice as many in a burst; off is no limit' -r
complete -c echod -l udp-global-rate -d 'Datagrams answered in all; twice as many in a burst; off is no limit' -r
complete -c echod -l udp-refuse-port -d 'Source ports never answered over UDP, beside our own; off is none' -r
complete -c echod -l user -d 'Become this user, once sockets, pidfile and log are open' -r
complete -c echod -l chroot -d 'Make this directory the root, once sockets, pidfile and log are open' -r -F
complete -c echod -l sandbox -d 'How far a serving process is locked in' -r -f -a "strict\t'refuse to serve without one'
best-effort\t'use what the kernel offers'
off\t'none, for strace and gdb'"
complete -c echod -l pidfile -d 'Write and lock the supervisor\'s pid here' -r -F
complete -c echod -l graceful-timeout -d 'After TERM, how long clients may take to finish' -r
complete -c echod -l shutdown-delay -d 'After TERM, how long to go on accepting' -r
complete -c echod -l stop-settle -d 'At a stop, how long handshakes in flight may take to complete' -r
complete -c echod -l orphans -d 'What serving processes do when the supervisor dies' -r -f -a "finish\t'serve their client to its end'
terminate\t'die too'"
complete -c echod -l log-target -d 'stderr, stdout, `syslog[:FACILITY]` or a path with a slash; syslog under --daemon' -r
complete -c echod -l log-format -d 'Shape of a log line' -r -f -a "text\t'for people'
json\t'one object a line'"
complete -c echod -l ready-fd -d 'Write a line per listener to this descriptor once it serves' -r
complete -c echod -s f -l config -d 'Read options from this file, too; those of the command line come first' -r -F
complete -c echod -l allow-root -d 'Keep uid 0 when started with it'
complete -c echod -l daemon -d 'Detach; return once it serves'
complete -c echod -l inetd -d 'Serve the connection on descriptor 0 and exit'
complete -c echod -l print -d 'Copy what clients send to standard output'
complete -c echod -s v -l verbose -d 'Log more; twice for everything'
complete -c echod -s q -l quiet -d 'Log less; twice for errors only'
complete -c echod -s T -l dump-config -d 'Print the configuration in force, as a file that -f takes, and exit'
complete -c echod -s t -l check -d 'Check the configuration and exit'
complete -c echod -s h -l help -d 'Print help (see more with \'--help\')'
complete -c echod -s V -l version -d 'Print version'
