/* The yardstick: the smallest honest fork-per-connection echo server. SIGCHLD
 * ignored, a 64 KiB buffer that is not touched before it is used, no logging,
 * no limit, no sandbox. Prints its port, serves until killed.
 *
 *     cc -O2 -static -o fork_echo scripts/peers/fork_echo.c
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

static char buffer[65536];

static void serve(int conn)
{
    ssize_t got;

    while ((got = read(conn, buffer, sizeof buffer)) > 0)
        for (ssize_t sent = 0; sent < got;) {
            ssize_t n = write(conn, buffer + sent, got - sent);
            if (n < 0)
                _exit(1);
            sent += n;
        }
    _exit(0);
}

int main(void)
{
    struct sockaddr_in addr = {.sin_family = AF_INET};
    socklen_t len = sizeof addr;
    int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    signal(SIGCHLD, SIG_IGN);
    signal(SIGPIPE, SIG_IGN);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&addr, sizeof addr) || listen(listener, 4096) ||
        getsockname(listener, (struct sockaddr *)&addr, &len)) {
        perror("fork_echo");
        return 71;
    }
    printf("tcp:127.0.0.1:%d\n", ntohs(addr.sin_port));
    fclose(stdout);
    for (;;) {
        int conn = accept(listener, NULL, NULL);
        if (conn < 0)
            continue;
        if (fork() == 0) {
            close(listener);
            serve(conn);
        }
        close(conn);
    }
}
