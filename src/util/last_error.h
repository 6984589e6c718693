/*
 * The reason for this thread's last failed call, in words: OwhpGetLastErrorText returns it.
 * The layer that knows the cause writes it; the api layer adds the function's name.
 */
#ifndef OWHP_UTIL_LAST_ERROR_H
#define OWHP_UTIL_LAST_ERROR_H

#include "util/status.h"

/* Remember the text (printf form, at most 255 characters are kept) and return the status. */
enum status fail(enum status status, const char *format, ...) __attribute__((format(printf, 2, 3)));

void last_error_clear(void);
const char *last_error_text(void); /* "" when there is none; valid until this thread's next call */

#endif
