#include "util/last_error.h"

#include <stdarg.h>
#include <stdio.h>

static _Thread_local char text[256];

enum status fail(enum status status, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    return status;
}

void last_error_clear(void)
{
    text[0] = 0;
}

const char *last_error_text(void)
{
    return text;
}
