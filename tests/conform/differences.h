#ifndef OWHP_TESTS_CONFORM_DIFFERENCES_H
#define OWHP_TESTS_CONFORM_DIFFERENCES_H

#include <stdbool.h>

#include <WinHvPlatform.h>
#include <openwhp.h>

/* Why the case does not apply to the engine under test; NULL: it does. */
const char *engine_difference(const char *id);

/* A case of the list whose difference WHvGetCapability does not show; NULL: none. */
const char *difference_hidden(void);

/* Does the engine under test say so of itself? */
bool engine_differs(OWHP_ENGINE_DIFFERENCES difference);

/*
 * Is it the kvm engine, on a processor that QEMU emulates (scripts/check-nested-kvm)? Of virtualization that one does some things
 * as no processor does; a case that meets one of them says so.
 */
bool kvm_is_on_qemu(void);

#endif
