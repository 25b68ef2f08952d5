# shellcheck shell=bash disable=SC2034 # read by scripts/bench/peers.sh
# Perl's Net::Server::Fork: a fork for each connection.
# shellcheck source=scripts/peers/perl-prefork.sh
. scripts/peers/perl-prefork.sh
name="Net::Server Fork" class=process personality=Fork
config="max_servers 512, no lookups, sysread and syswrite"
