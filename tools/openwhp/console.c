/* The user's terminal; see console.h. */
#include "console.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <termios.h>
#include <unistd.h>

#include "problem.h"

enum { CTRL_A = 1 };

/* The terminal as it was. Written once before the handlers are set, so that they may read it. */
static struct termios original;
static volatile sig_atomic_t is_raw;

static const int deadly_signals[] = {SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGABRT,
                                     SIGBUS, SIGFPE, SIGILL,  SIGSEGV, SIGSYS};
enum { DEADLY_SIGNALS = sizeof deadly_signals / sizeof deadly_signals[0] };
static struct sigaction earlier[DEADLY_SIGNALS];

/* Async-signal-safe. */
static void restore_terminal(void)
{
    if (is_raw) {
        is_raw = 0;
        tcsetattr(STDIN_FILENO, TCSANOW, &original);
    }
}

/* Restores the terminal, then lets the signal do what it would have done without us. */
static void on_deadly_signal(int number)
{
    restore_terminal();
    for (unsigned i = 0; i < DEADLY_SIGNALS; i++)
        if (deadly_signals[i] == number)
            sigaction(number, &earlier[i], NULL);
    raise(number); /* delivered when this handler returns */
}

void console_catch_signals(void)
{
    struct sigaction action = {.sa_handler = on_deadly_signal};
    sigemptyset(&action.sa_mask);
    for (unsigned i = 0; i < DEADLY_SIGNALS; i++) {
        sigaction(deadly_signals[i], NULL, &earlier[i]);
        if (!(earlier[i].sa_flags & SA_SIGINFO) && earlier[i].sa_handler == SIG_DFL) /* nohup ignores one */
            sigaction(deadly_signals[i], &action, NULL);
    }
}

static void make_raw(struct console *console)
{
    /* In the background the terminal is somebody else's: changing it would stop us. */
    if (!isatty(STDIN_FILENO) || tcgetpgrp(STDIN_FILENO) != getpgrp() ||
        tcgetattr(STDIN_FILENO, &original) != 0)
        return;
    static bool registered;
    if (!registered) {
        registered = true;
        atexit(restore_terminal);
    }
    struct termios raw = original;
    cfmakeraw(&raw);
    raw.c_oflag |= OPOST; /* our own lines end with a plain line feed */
    is_raw = 1;
    console->raw = tcsetattr(STDIN_FILENO, TCSANOW, &raw) == 0;
}

enum console_action console_filter(bool *escape, uint8_t key)
{
    if (!*escape) {
        *escape = key == CTRL_A;
        return *escape ? CONSOLE_SWALLOW : CONSOLE_PASS;
    }
    *escape = false;
    switch (key) {
    case CTRL_A:
        return CONSOLE_PASS;
    case 'x':
    case 'X':
        return CONSOLE_QUIT;
    case 'h':
    case 'H':
    case '?':
        return CONSOLE_HELP;
    default:
        return CONSOLE_SWALLOW;
    }
}

static void print_help(void)
{
    static const char text[] = "\r\nCtrl-A h  this help\r\n"
                               "Ctrl-A x  switch the machine off\r\n"
                               "Ctrl-A Ctrl-A  send Ctrl-A to the guest\r\n";
    ssize_t ignored = write(STDOUT_FILENO, text, sizeof text - 1);
    (void)ignored;
}

/* Filters keys of a terminal in place; returns how many bytes are the guest's. */
static size_t filter_keys(struct console *console, uint8_t *bytes, size_t count)
{
    size_t kept = 0;
    for (size_t i = 0; i < count; i++) {
        switch (console_filter(&console->escape, bytes[i])) {
        case CONSOLE_PASS:
            bytes[kept++] = bytes[i];
            break;
        case CONSOLE_QUIT:
            power_stop(console->power, STOP_USER);
            return kept;
        case CONSOLE_HELP:
            print_help();
            break;
        case CONSOLE_SWALLOW:
            break;
        }
    }
    return kept;
}

/*
 * Reads what the guest has room for; false at the end of the input. A terminal is always read, without a look at the machine,
 * for Ctrl-A x must work whatever the machine is at; keys that nobody takes are lost.
 */
static bool read_input(struct console *console, size_t room)
{
    uint8_t bytes[sizeof console->pending];
    size_t wanted = console->raw || room > sizeof bytes ? sizeof bytes : room;
    ssize_t count = read(STDIN_FILENO, bytes, wanted);
    if (count <= 0)
        return count < 0 && (errno == EINTR || errno == EAGAIN);
    size_t kept = (size_t)count, left = sizeof console->pending - console->pending_count;
    if (console->raw)
        kept = filter_keys(console, bytes, kept);
    kept = kept < left ? kept : left;
    memcpy(console->pending + console->pending_count, bytes, kept);
    console->pending_count += kept;
    return true;
}

static void give_input(struct console *console)
{
    if (console->pending_count > 0 && console->input(console->context, console->pending, console->pending_count))
        console->pending_count = 0;
}

/* What may be read now; without a terminal nothing before the machine has taken what there is. */
static size_t room_for_input(struct console *console)
{
    if (console->raw)
        return sizeof console->pending;
    return console->pending_count > 0 ? 0 : console->room(console->context);
}

static void *reader(void *argument)
{
    enum { TRY_AGAIN_MS = 20 };
    struct console *console = argument;
    struct pollfd files[2] = {{.fd = console->wake, .events = POLLIN},
                              {.fd = STDIN_FILENO, .events = POLLIN}};
    for (;;) {
        give_input(console);
        size_t room = room_for_input(console);
        files[1].events = room > 0 ? POLLIN : 0;
        if (poll(files, 2, console->pending_count > 0 ? TRY_AGAIN_MS : -1) < 0 && errno != EINTR)
            break;
        if (files[0].revents & POLLIN) {
            uint64_t count;
            ssize_t ignored = read(console->wake, &count, sizeof count);
            (void)ignored;
            if (__atomic_load_n(&console->stopping, __ATOMIC_ACQUIRE))
                break;
        }
        if ((files[1].revents & (POLLIN | POLLHUP | POLLERR)) && files[1].events != 0)
            if (!read_input(console, room))
                files[1].fd = -1; /* end of the input; output goes on */
        if (files[1].events == 0 && (files[1].revents & (POLLHUP | POLLERR)))
            files[1].fd = -1;
    }
    return NULL;
}

int console_open(struct console *console)
{
    console->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (console->wake < 0)
        return problem("cannot watch the terminal (%s); close other programs", strerror(errno));
    make_raw(console);
    if (pthread_create(&console->thread, NULL, reader, console) != 0) {
        console_close(console);
        return problem("cannot start the terminal thread; allow this user more threads (ulimit -u)");
    }
    console->reading = true;
    return 0;
}

void console_wake(struct console *console)
{
    const uint64_t one = 1;
    ssize_t ignored = write(console->wake, &one, sizeof one);
    (void)ignored;
}

void console_close(struct console *console)
{
    if (console->reading) {
        __atomic_store_n(&console->stopping, true, __ATOMIC_RELEASE);
        console_wake(console);
        pthread_join(console->thread, NULL);
        console->reading = false;
    }
    restore_terminal();
    if (console->wake >= 0)
        close(console->wake);
    console->wake = -1;
}

/* Waits for a slow reader, but looks every 100 ms whether the machine has ended meanwhile. */
static bool wait_writable(const struct sink *sink)
{
    struct pollfd file = {.fd = sink->file, .events = POLLOUT};
    while (poll(&file, 1, 100) == 0)
        if (power_is_stopping(sink->power))
            return false;
    return true;
}

void sink_write(struct sink *sink, const void *bytes, size_t count)
{
    const char *at = bytes;
    while (count > 0 && sink->file >= 0) {
        if (!wait_writable(sink))
            return;
        ssize_t written = write(sink->file, at, count);
        if (written < 0 && errno != EINTR && errno != EAGAIN) {
            sink->file = sink->owned ? sink->file : -1; /* the reader has gone */
            return;
        }
        if (written > 0) {
            at += written;
            count -= (size_t)written;
        }
    }
}
