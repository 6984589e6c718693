/* The engine-neutral exit in the API's form. */
#ifndef OWHP_API_API_EXIT_H
#define OWHP_API_API_EXIT_H

#include "api/api.h"

/*
 * The smallest exit context a run accepts: the common part and room for the contexts (up to 40 bytes, a #DB trap's) of
 * all exits that cannot be repeated because their instruction has happened. The exits that need more have not executed
 * their instruction; one that does not fit comes again at the next run.
 */
enum { EXIT_CONTEXT_MINIMUM = 88 };

/* What nearly all exits end within. */
enum { EXIT_CONTEXT_HEAD = 96 };

/* Fills the head of the context, and more of it when this exit needs more; unused bytes there are 0. Returns how many bytes the
 * exit needs. */
UINT32 exit_to_context(const struct vcpu_exit *exit, WHV_RUN_VP_EXIT_CONTEXT *context);

#endif
