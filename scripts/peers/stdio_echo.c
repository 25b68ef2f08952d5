/* What the super-servers below run for a connection: standard input to standard
 * output. Static and small, since each connection pays for an exec of it;
 * without a compiler it is cat(1).
 *
 *     cc -O2 -static -o stdio_echo scripts/peers/stdio_echo.c
 */
#include <unistd.h>

static char buffer[65536];

int main(void)
{
    ssize_t got;

    while ((got = read(0, buffer, sizeof buffer)) > 0)
        for (ssize_t sent = 0; sent < got;) {
            ssize_t n = write(1, buffer + sent, got - sent);
            if (n < 0)
                return 1;
            sent += n;
        }
    return 0;
}
