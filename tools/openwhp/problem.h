/*
 * The one line a user gets when something is wrong: what, where, what to do.
 *
 * A function that fails calls problem() and returns its result (-1); the caller passes the failure on
 * and main() prints the text behind "openwhp: ". The first problem of a thread is kept: it is the cause.
 */
#ifndef OPENWHP_TOOL_PROBLEM_H
#define OPENWHP_TOOL_PROBLEM_H

/* Remembers the text for this thread (cut at 500 bytes, line breaks become blanks). */
void problem_note(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* The same, with the value -1: a macro so that the compiler sees the value. */
#define problem(...) (problem_note(__VA_ARGS__), -1)

/* The remembered text, "" when there is none. Valid until the next problem_clear() of this thread. */
const char *problem_text(void);

void problem_clear(void);

#endif
