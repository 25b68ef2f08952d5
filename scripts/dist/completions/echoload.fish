complete -c echoload -s c -l connections -d 'Connections at once' -r
complete -c echoload -s s -l size -d 'Bytes in a message, or a range as in 64-1500; in a stream, bytes in one write; 64 unless given, 64K in a stream; K, M and G are 1024-based' -r
complete -c echoload -s d -l duration -d 'How long to go on, 10s unless given, not with -n; for hold how long to keep all open, 0 unless given' -r
complete -c echoload -s n -l count -d 'How many requests (rr), connections (crr) or messages (stream) in all, instead of -d' -r
complete -c echoload -s t -l threads -d 'Threads that share the connections' -r
complete -c echoload -s R -l rate -d 'An open loop of so many requests (rr) or connections (crr) a second' -r
complete -c echoload -l sweep -d 'Look for the highest rate that is held, from FROM to TO: -R, again and again, for -d each (1s unless given)' -r
complete -c echoload -l p99 -d 'With a sweep, what p99 must not pass: 5ms unless given' -r
complete -c echoload -l warmup -d 'Load before the figures begin' -r
complete -c echoload -l ramp-up -d 'Before the warm-up, let connections, or the rate of -R, grow for so long' -r
complete -c echoload -l think -d 'From an answer to the next request on its connection, without -R' -r
complete -c echoload -l timeout -d 'The longest any connect, read or write may take' -r
complete -c echoload -l rounds -d 'Rounds of each server, with ADDR2, instead of as many as fill -d well' -r
complete -c echoload -l fail-below -d 'With ADDR2, exit 75 when ADDR is surely slower than this by ADDR2' -r
complete -c echoload -l window -d 'Bytes of a stream that may be on their way at once' -r
complete -c echoload -l sources -d 'Addresses, from 127.0.0.1 up, to call an IPv4 server on loopback from' -r
complete -c echoload -l server-pid -d 'The server\'s process, for its CPU time, instead of who has its socket' -r
complete -c echoload -l json -d 'Print one JSON object instead of the report, or write it to FILE beside the report' -r -F
complete -c echoload -l percentiles -d 'The percentiles to report, as in 50,99,99.9' -r
complete -c echoload -l hdr -d 'Write the latencies as HdrHistogram\'s percentile text' -r -F
complete -c echoload -l outcomes -d 'Write a line for each request or connection that did not complete' -r -F
complete -c echoload -l interval -d 'Tell on standard error how it goes, this often; on a terminal every 1s unless given' -r
complete -c echoload -l lines -d 'End each message in a newline, for a server that echoes lines'
complete -c echoload -s h -l help -d 'Print help (see more with \'--help\')'
complete -c echoload -s V -l version -d 'Print version'
