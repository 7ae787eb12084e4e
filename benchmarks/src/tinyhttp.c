/* A stand-in for `ollama serve` that costs next to nothing: what is left of a measurement is the supervisor's own.
 *
 * `serve` listens on OLLAMA_HOST (ip:port) and answers GET /api/version and GET /api/ps. Any other argument prints a
 * version. Every answer names the pid that gave it, so that nobody mistakes an old server for a new one.
 */

#define _GNU_SOURCE

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define VERSION "0.32.15"
#define MOST_FDS 256
#define LONGEST_HEAD 2048
#define EXIT_NO_PORT 3

static char heads[MOST_FDS][LONGEST_HEAD];
static size_t filled[MOST_FDS];

static void end(int number) {
    (void)number;
    _exit(0);
}

/* The two lines from which a supervisor learns that this server has no GPU and has finished looking for one. */
static void tell_devices(void) {
    char text[768], stamp[40];
    struct timespec now;
    struct tm parts;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &parts);
    size_t length = strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%S", &parts);
    snprintf(stamp + length, sizeof stamp - length, ".%03ldZ", now.tv_nsec / 1000000);
    int size = snprintf(text, sizeof text,
        "time=%s level=INFO source=tinyhttp.c msg=\"inference compute\" id=cpu library=cpu compute=\"\" name=cpu "
        "description=cpu libdirs=ollama driver=\"\" pci_id=\"\" type=\"\" total=\"16.0 GiB\" available=\"12.0 GiB\"\n"
        "time=%s level=INFO source=tinyhttp.c msg=\"vram-based default context\" total_vram=\"0 B\" "
        "default_num_ctx=4096\n",
        stamp, stamp);
    if (size > 0 && write(STDERR_FILENO, text, (size_t)size) < 0)
        return; /* a log that cannot be written is no reason not to serve */
}

static int listen_on(const char *host) {
    char address[64];
    snprintf(address, sizeof address, "%s", host != NULL ? host : "127.0.0.1:11434");
    char *colon = strrchr(address, ':');
    struct sockaddr_in where = {.sin_family = AF_INET};
    if (colon == NULL)
        return -1;
    *colon = '\0';
    where.sin_port = htons((unsigned short)atoi(colon + 1));
    if (inet_pton(AF_INET, address, &where.sin_addr) != 1)
        return -1;
    int on = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&where, sizeof where) < 0 || listen(listener, 128) < 0)
        return -1;
    return listener;
}

static void answer(int fd, const char *head) {
    const char *body = "404 page not found", *status = "404 Not Found";
    char text[512];
    if (strncmp(head, "GET /api/version ", 17) == 0) {
        body = "{\"version\":\"" VERSION "\"}";
        status = "200 OK";
    } else if (strncmp(head, "GET /api/ps ", 12) == 0) {
        body = "{\"models\":[]}";
        status = "200 OK";
    }
    int size = snprintf(text, sizeof text,
        "HTTP/1.1 %s\r\nContent-Type: application/json; charset=utf-8\r\nX-Bench-Pid: %d\r\n"
        "Content-Length: %zu\r\nConnection: close\r\n\r\n%s",
        status, (int)getpid(), strlen(body), body);
    if (send(fd, text, (size_t)size, MSG_NOSIGNAL) < 0)
        return; /* the client has gone; the connection is closed by our caller either way */
}

static void read_request(int fd) {
    size_t room = LONGEST_HEAD - 1 - filled[fd];
    ssize_t got = recv(fd, heads[fd] + filled[fd], room, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got > 0) {
        filled[fd] += (size_t)got;
        heads[fd][filled[fd]] = '\0';
        if (strstr(heads[fd], "\r\n\r\n") == NULL && filled[fd] < LONGEST_HEAD - 1)
            return;
        answer(fd, heads[fd]);
    }
    close(fd); /* epoll forgets it by itself */
}

static void welcome(int listener, int poll) {
    int fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)) >= 0) {
        struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
        if (fd >= MOST_FDS || epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event) < 0) {
            close(fd);
            continue;
        }
        filled[fd] = 0;
        read_request(fd); /* mostly it is there already */
    }
}

static void serve(int listener) {
    int poll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, ready[64];
    epoll_ctl(poll, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int count = epoll_wait(poll, ready, 64, -1);
        for (int i = 0; i < count; i++) {
            if (ready[i].data.fd == listener)
                welcome(listener, poll);
            else
                read_request(ready[i].data.fd);
        }
    }
}

int main(int argc, char **argv) {
    if (argc < 2 || strcmp(argv[1], "serve") != 0) {
        puts("ollama version is " VERSION);
        return 0;
    }
    const char *stubborn = getenv("BENCH_IGNORE_TERM");
    signal(SIGTERM, stubborn != NULL && strcmp(stubborn, "1") == 0 ? SIG_IGN : end);
    signal(SIGPIPE, SIG_IGN);
    int listener = listen_on(getenv("OLLAMA_HOST"));
    if (listener < 0) {
        fprintf(stderr, "Error: cannot listen on OLLAMA_HOST: %s\n", strerror(errno));
        return EXIT_NO_PORT;
    }
    tell_devices();
    serve(listener);
}
