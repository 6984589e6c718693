/* The one line a user gets when something is wrong; see problem.h. */
#include "problem.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>

static _Thread_local char text[500];

void problem_note(const char *format, ...)
{
    if (text[0] != '\0')
        return;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    /* File names come from the user and may hold anything; the message stays one line. */
    for (char *c = text; *c != '\0'; c++)
        if (iscntrl((unsigned char)*c))
            *c = ' ';
}

const char *problem_text(void) { return text; }

void problem_clear(void) { text[0] = '\0'; }
