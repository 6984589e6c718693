/*
 * The user's terminal: where output of the guest goes and its input comes from.
 *
 * A terminal is put into raw mode, so that every key reaches the guest, and put back on every way out:
 * console_close(), exit() and signals. Ctrl-A is ours: x quits, h helps, a second Ctrl-A sends one.
 * Without a terminal bytes pass unchanged both ways; Ctrl-A is then an ordinary byte.
 */
#ifndef OPENWHP_TOOL_CONSOLE_H
#define OPENWHP_TOOL_CONSOLE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "power.h"

struct console {
    struct power *power;
    /* How many bytes of input the guest takes now; waits for the machine. */
    unsigned (*room)(void *context);
    /* Gives them to it. Does not wait: false if the machine is busy, which it is as long as nobody reads its output. */
    bool (*input)(void *context, const uint8_t *bytes, size_t count);
    void *context;
    uint8_t pending[256]; /* input that the machine has not taken yet */
    size_t pending_count;
    bool raw;
    bool escape; /* the last key was Ctrl-A */
    bool reading;
    int wake; /* event descriptor: room again, or stop */
    bool stopping;
    pthread_t thread;
};

/* What to do with a key (the escape language by itself, for tests). */
enum console_action { CONSOLE_PASS, CONSOLE_SWALLOW, CONSOLE_QUIT, CONSOLE_HELP };
enum console_action console_filter(bool *escape, uint8_t key);

/*
 * Makes deadly signals restore the terminal first. To be called before the library is: what it installs for
 * memory faults then passes on to us what is not its own.
 */
void console_catch_signals(void);

/* Switches the terminal to raw mode and starts to read it. */
int console_open(struct console *console);

/* Ends reading and restores the terminal. */
void console_close(struct console *console);

/* There is room for input again. Any thread. */
void console_wake(struct console *console);

/*
 * Where output goes: a descriptor. A full pipe is waited for, but not past the end of the machine.
 */
struct sink {
    int file; /* -1: nowhere */
    bool owned;
    struct power *power;
};

void sink_write(struct sink *sink, const void *bytes, size_t count);

#endif
