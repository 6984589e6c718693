/* `openwhp info`: which engines there are, why one cannot be used, and what the platform can do. */
#ifndef OPENWHP_TOOL_INFO_H
#define OPENWHP_TOOL_INFO_H

#include <stdio.h>

/* Returns the command's exit status. */
int info_write(FILE *to);

#endif
