/* The limit: the least that any supervisor has to do, and nothing else.
 *
 *     forkloop PROGRAM STOP_TIMEOUT_MS PORT...
 *
 * Starts PROGRAM once for each port, starts it again at once when it dies, and on SIGTERM ends all of them: SIGTERM
 * first, SIGKILL after the time-out. No back-off, no check, no log.
 */

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define EXIT_NO_PORT 3 /* of tinyhttp: starting it again would fail in the same way, for ever */

extern char **environ;

static const char *program;
static const char **ports;
static pid_t *pids;
static int count, alive;

static pid_t start(const char *port) {
    pid_t pid = fork();
    if (pid < 0) {
        perror("forkloop: fork");
        exit(1);
    }
    if (pid > 0)
        return pid;
    sigset_t none;
    char host[40];
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    setsid();
    snprintf(host, sizeof host, "127.0.0.1:%s", port);
    setenv("OLLAMA_HOST", host, 1);
    char *const arguments[] = {(char *)program, "serve", NULL};
    execve(program, arguments, environ);
    _exit(127);
}

/* Collect everything that has ended; in its place start the next, where that is wanted. */
static void collect(int again) {
    int status;
    pid_t pid;
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        for (int i = 0; i < count; i++) {
            if (pids[i] != pid)
                continue;
            if (again && WIFEXITED(status) && (WEXITSTATUS(status) == EXIT_NO_PORT || WEXITSTATUS(status) == 127)) {
                fprintf(stderr, "forkloop: the child on port %s cannot run\n", ports[i]);
                exit(1);
            }
            pids[i] = again ? start(ports[i]) : 0;
            alive -= !again;
            break;
        }
    }
}

static void signal_all(int number) {
    for (int i = 0; i < count; i++)
        if (pids[i] > 0)
            kill(pids[i], number);
}

static long long now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static void stop(const sigset_t *signals, long long timeout_ns) {
    long long deadline = now_ns() + timeout_ns;
    signal_all(SIGTERM);
    for (collect(0); alive > 0; collect(0)) {
        long long left = deadline - now_ns();
        if (left <= 0) {
            signal_all(SIGKILL);
            left = 1000000000LL;
        }
        struct timespec wait = {.tv_sec = left / 1000000000LL, .tv_nsec = left % 1000000000LL};
        sigtimedwait(signals, NULL, &wait);
    }
}

int main(int argc, char **argv) {
    if (argc < 4) {
        fprintf(stderr, "usage: forkloop PROGRAM STOP_TIMEOUT_MS PORT...\n");
        return 2;
    }
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGCHLD);
    sigaddset(&signals, SIGTERM);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    program = argv[1];
    ports = (const char **)argv + 3;
    count = alive = argc - 3;
    pids = calloc((size_t)count, sizeof *pids);
    for (int i = 0; i < count; i++)
        pids[i] = start(ports[i]);
    for (;;) {
        int number = sigwaitinfo(&signals, NULL);
        if (number == SIGTERM) {
            stop(&signals, atoll(argv[2]) * 1000000LL);
            return 0;
        }
        if (number == SIGCHLD)
            collect(1);
    }
}
