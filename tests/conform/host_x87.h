/*
 * What the host's processor makes of x87 state, found by asking it. Guests of an engine that runs them on hardware see that.
 */
#ifndef OWHP_TESTS_CONFORM_HOST_X87_H
#define OWHP_TESTS_CONFORM_HOST_X87_H

#include <stdbool.h>

/* FXRSTOR and FXSAVE keep where the last instruction was: AMD's processors do so only while an exception is pending (APM 2,
 * 11.4.4), or always (CPUID 80000008 EBX bit 2); emulated ones never. */
bool host_keeps_fp_pointers(void);

/* A store to an MMX register sets the exponent of the x87 register to ones (SDM 1, 9.2.2). An emulated processor may not. */
bool host_mmx_sets_exponents(void);

#endif
