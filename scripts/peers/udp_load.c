/* UDP load: keeps WINDOW datagrams of SIZE bytes on their way to PORT on
 * loopback for SECONDS, compares every echo, and prints
 *	rate RECEIVED/s lost N
 * A datagram not back after 200 ms of silence is lost and is replaced. Ends
 * with 1 if an echo is not what was sent. Sends and receives in batches, so
 * that the server is what is measured. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>

enum { MOST = 256, LONGEST = 65507 };

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
	static struct mmsghdr out[MOST], in[MOST];
	static struct iovec outv[MOST], inv[MOST];
	static char pattern[LONGEST];
	struct sockaddr_in to = { .sin_family = AF_INET };
	struct timeval patience = { .tv_usec = 200000 };
	long received = 0, lost = 0, flying = 0;
	int fd, i, window, size, buffer = 4 << 20;
	double start, seconds;

	if (argc != 5)
		return 64;
	to.sin_port = htons(atoi(argv[1]));
	to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	window = atoi(argv[2]);
	size = atoi(argv[3]);
	seconds = atof(argv[4]);
	if (window < 1 || window > MOST || size < 1 || size > LONGEST)
		return 64;
	fd = socket(AF_INET, SOCK_DGRAM, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to) < 0) {
		perror("udp_load");
		return 71;
	}
	setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof buffer);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
	for (i = 0; i < size; i++)
		pattern[i] = i % 251;
	for (i = 0; i < window; i++) {
		outv[i] = (struct iovec){ pattern, size };
		inv[i] = (struct iovec){ malloc(size + 1), size + 1 };
		out[i].msg_hdr = (struct msghdr){ .msg_iov = &outv[i], .msg_iovlen = 1 };
		in[i].msg_hdr = (struct msghdr){ .msg_iov = &inv[i], .msg_iovlen = 1 };
	}
	for (start = now(); now() - start < seconds;) {
		int n;

		while (flying < window) {
			n = sendmmsg(fd, out, window - flying, 0);
			if (n <= 0)
				break;
			flying += n;
		}
		n = recvmmsg(fd, in, window, MSG_WAITFORONE, NULL);
		if (n < 0 && errno == EAGAIN) {
			lost += flying;
			flying = 0;
			continue;
		}
		for (i = 0; i < n; i++) {
			if (in[i].msg_len != (unsigned)size ||
			    memcmp(inv[i].iov_base, pattern, size)) {
				fprintf(stderr, "udp_load: not what was sent\n");
				return 1;
			}
		}
		if (n > 0) {
			received += n;
			flying -= n;
		}
	}
	printf("rate %.0f/s lost %ld\n", received / (now() - start), lost);
	return 0;
}
