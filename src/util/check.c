#include "util/check.h"

#include <stdio.h>
#include <stdlib.h>

void check_failed(const char *condition, const char *file, int line)
{
    fprintf(stderr, "openwhp: internal error: %s does not hold (%s:%d)\n", condition, file, line);
    abort();
}
