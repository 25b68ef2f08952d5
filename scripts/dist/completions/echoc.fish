complete -c echoc -s c -l count -d 'Echoes to send; with -w, echoes to be answered' -r
complete -c echoc -s i -l interval -d 'From one echo to the next; 0: as soon as the last is settled' -r
complete -c echoc -s s -l size -d 'Bytes in an echo' -r
complete -c echoc -s w -l deadline -d 'Stop after this time' -r
complete -c echoc -l warning -d 'With --check also -w: say WARNING above this round trip time' -r
complete -c echoc -l critical -d 'With --check also -c: say CRITICAL above this round trip time' -r
complete -c echoc -s W -l timeout -d 'How long to wait for an answer (1s), for a stream that is silent (for ever), or for all of --check (2s)' -r
complete -c echoc -l retry -d 'How often to try again: in a terminal 5 times, else not' -r
complete -c echoc -l retry-interval -d 'How long to wait before trying again' -r
complete -c echoc -l ping -d 'Send an echo each -i, and measure how long it takes'
complete -c echoc -s D -l timestamps -d 'The time before each line'
complete -c echoc -l connect -d 'A connection for each echo, measured separately'
complete -c echoc -l check -d 'Send one echo, and print one line for a monitoring system'
complete -c echoc -s q -l quiet -d 'Say less'
complete -c echoc -l no-verify -d 'Copy without comparing'
complete -c echoc -s h -l help -d 'Print help (see more with \'--help\')'
complete -c echoc -s V -l version -d 'Print version'
