/*
 * What the machine's memory did: the map of guest physical space as a picture, exits by reason, dirty
 * pages, and the text screen; as text or as one JSON object.
 */
#ifndef OPENWHP_TOOL_REPORT_H
#define OPENWHP_TOOL_REPORT_H

#include <stdio.h>

#include "machine.h"

/* Writes what the options ask for; the machine has been stopped. */
void report_write(const struct machine *machine, FILE *to);

#endif
