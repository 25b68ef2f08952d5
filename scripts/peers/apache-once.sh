# shellcheck shell=bash disable=SC2034 # read by scripts/bench/peers.sh
# The same with a process for each connection.
# shellcheck source=scripts/peers/apache-reuse.sh
. scripts/peers/apache-reuse.sh
name="Apache, 1 each" class=process per_child=1
config="mpm_prefork + mod_echo, MaxConnectionsPerChild 1, 32 workers, ListenBacklog 4096"
# It refills its pool once a second: some connections a second, so that a short
# run of it is long.
slow=yes
