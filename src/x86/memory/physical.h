/*
 * Guest physical memory for the few places where the processor itself uses physical addresses and which are not part
 * of a page walk: loading PAE page-directory-pointer entries.
 */
#ifndef OWHP_X86_PHYSICAL_H
#define OWHP_X86_PHYSICAL_H

#include "x86/cpu.h"

/* 8 bytes at an aligned address, through page() or access() of the port. False: cpu->leave is set. */
must_check bool physical_read64(struct cpu *cpu, gpa_t gpa, uint64_t *value);
/* The same without exits: false when there is no direct memory. */
must_check bool physical_peek64(struct cpu *cpu, gpa_t gpa, uint64_t *value);

#endif
