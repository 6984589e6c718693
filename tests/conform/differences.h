#ifndef OWHP_TESTS_CONFORM_DIFFERENCES_H
#define OWHP_TESTS_CONFORM_DIFFERENCES_H

/* Why the case does not apply to the engine under test; NULL: it does. */
const char *engine_difference(const char *id);

#endif
