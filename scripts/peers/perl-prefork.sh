# shellcheck shell=bash disable=SC2034 # read by scripts/bench/peers.sh
# Perl's Net::Server::PreFork: workers that serve client after client.
name="Net::Server PreFork" needs=perl class=reuse
config="min_servers 32, max_servers 512, max_requests 1000000, no serialize, no lookups, sysread and syswrite"
personality=PreFork
# Its graceful stop, for scripts/soak.sh --peers.
stop_signal=QUIT

usable() {
    perl -MNet::Server::PreFork -e 1 2>/dev/null || { echo "libnet-server-perl is not installed"; return 1; }
}

serve() {
    exec perl - "$1" "$personality" <<'PERL'
use strict;
my ($port, $personality) = @ARGV;
package Echo;
eval "use base 'Net::Server::$personality'; 1" or die $@;
sub process_request {
    my $client = $_[0]{server}{client};
    my ($buffer, $got);
    while ($got = sysread($client, $buffer, 65536)) {
        for (my $sent = 0; $sent < $got;) {
            my $n = syswrite($client, $buffer, $got - $sent, $sent);
            return unless defined $n;
            $sent += $n;
        }
    }
}
package main;
$SIG{PIPE} = 'IGNORE';
Echo->run(
    host => '127.0.0.1', port => $port, ipv => 4, listen => 4096, log_level => 0,
    serialize => 'none', max_servers => 512, min_servers => 32, min_spare_servers => 16,
    max_spare_servers => 64, max_requests => 1000000, no_client_stdout => 1,
);
PERL
}
