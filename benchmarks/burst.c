/* burst FILE: start all commands of FILE as fast as one thread can, and write to descriptor 3, a line for each command, when it
 * started and ended (seconds of CLOCK_MONOTONIC) and its wait status. In FILE each argument ends with a NUL, each command with an
 * empty argument.
 *
 * Who starts and awaits short commands takes from the cores that they run on: in Python it was an eighth of 64 warm creates. */
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

extern char **environ;

struct command {
    char **arguments;
    pid_t pid;
    double start, end;
    int status;
};

static struct command *commands;
static size_t count;
static sem_t running; /* children that nobody has waited for */
static pthread_mutex_t known = PTHREAD_MUTEX_INITIALIZER; /* held until a child's pid is written down: it may end before that */

static double now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

static void fail(const char *what)
{
    perror(what);
    exit(125);
}

static void read_commands(const char *path)
{
    FILE *file = fopen(path, "r");
    struct stat status;
    char *text, **next;

    if (file == NULL || fstat(fileno(file), &status) < 0)
        fail(path);
    text = malloc(status.st_size);
    next = calloc(status.st_size, sizeof *next);
    commands = calloc(status.st_size, sizeof *commands);
    if (fread(text, 1, status.st_size, file) != (size_t)status.st_size)
        fail(path);
    fclose(file);
    for (char *argument = text; argument < text + status.st_size; argument += strlen(argument) + 1) {
        if (commands[count].arguments == NULL)
            commands[count].arguments = next;
        if (*argument != '\0')
            *next = argument;
        else
            count++;
        next++;
    }
}

/* The waiting has a thread of its own: the end of the first is seen while the last is not there yet. */
static void *wait_for_all(void *unused)
{
    for (size_t ended = 0; ended < count; ended++) {
        double end;
        int status;
        pid_t pid;

        while (sem_wait(&running) < 0)
            ;
        if ((pid = wait(&status)) < 0)
            fail("wait");
        end = now();
        pthread_mutex_lock(&known);
        for (size_t each = 0; each < count; each++)
            if (commands[each].pid == pid && commands[each].end == 0) {
                commands[each].end = end;
                commands[each].status = status;
            }
        pthread_mutex_unlock(&known);
    }
    return unused;
}

int main(int argc, char **argv)
{
    posix_spawn_file_actions_t actions;
    pthread_t waiter;

    if (argc != 2) {
        fputs("usage: burst FILE\n", stderr);
        return 125;
    }
    read_commands(argv[1]);
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addclose(&actions, 3);
    sem_init(&running, 0, 0);
    if ((errno = pthread_create(&waiter, NULL, wait_for_all, NULL)) != 0)
        fail("pthread_create");
    for (struct command *each = commands; each < commands + count; each++) {
        pthread_mutex_lock(&known);
        each->start = now();
        if ((errno = posix_spawnp(&each->pid, each->arguments[0], &actions, NULL, each->arguments, environ)) != 0)
            fail(each->arguments[0]);
        pthread_mutex_unlock(&known);
        sem_post(&running);
    }
    pthread_join(waiter, NULL);
    for (struct command *each = commands; each < commands + count; each++)
        dprintf(3, "%.9f %.9f %d\n", each->start, each->end, each->status);
    return 0;
}
