/* launch COMMAND [ARGUMENT...]: run a command and write to descriptor 3 when it started and ended (seconds of CLOCK_MONOTONIC),
 * its CPU seconds and its peak memory (KiB).
 *
 * A process inherits the peak memory of whoever started it, until it is larger itself; so something small has to start it. */
#include <spawn.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static double now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

static double seconds(struct timeval time)
{
    return time.tv_sec + time.tv_usec / 1e6;
}

int main(int argc, char **argv)
{
    posix_spawn_file_actions_t actions;
    struct rusage usage;
    double start, end;
    pid_t pid;
    int status;

    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addclose(&actions, 3);
    start = now();
    if (argc < 2 || posix_spawnp(&pid, argv[1], &actions, NULL, argv + 1, environ) != 0)
        return 127;
    if (wait4(pid, &status, 0, &usage) < 0)
        return 126;
    end = now();
    dprintf(3, "%.9f %.9f %.6f %ld\n", start, end, seconds(usage.ru_utime) + seconds(usage.ru_stime), usage.ru_maxrss);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
