/* How often a processor came out of its run, by reason. */
#ifndef OPENWHP_TOOL_EXIT_COUNT_H
#define OPENWHP_TOOL_EXIT_COUNT_H

#include <WinHvPlatformDefs.h>

#include <stdint.h>

enum { EXIT_REASONS = 20 };

struct exit_counts {
    uint64_t by_reason[EXIT_REASONS];
};

void exit_count_add(struct exit_counts *counts, WHV_RUN_VP_EXIT_REASON reason);

/* Name of the reason at an index; "other" for the last one, which counts everything unknown. */
const char *exit_count_name(unsigned index);

/* Name of a reason. */
const char *exit_reason_name(WHV_RUN_VP_EXIT_REASON reason);

#endif
