/* The plainest UDP echo server: one recvfrom and one sendto a datagram. What
 * scripts/udp-bench.sh measures echod against. Prints its port and serves
 * until it is killed; it refuses nobody, so keep it on loopback. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/socket.h>

int main(void)
{
	static char buffer[65536];
	struct sockaddr_in here = { .sin_family = AF_INET };
	socklen_t length = sizeof here;
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	here.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (fd < 0 || bind(fd, (struct sockaddr *)&here, sizeof here) < 0 ||
	    getsockname(fd, (struct sockaddr *)&here, &length) < 0) {
		perror("udp_echo");
		return 1;
	}
	printf("%d\n", ntohs(here.sin_port));
	fflush(stdout);
	for (;;) {
		struct sockaddr_in from;
		socklen_t size = sizeof from;
		ssize_t n = recvfrom(fd, buffer, sizeof buffer, 0,
				     (struct sockaddr *)&from, &size);

		if (n >= 0)
			sendto(fd, buffer, n, 0, (struct sockaddr *)&from, size);
	}
}
