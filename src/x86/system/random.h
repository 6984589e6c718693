/*
 * Random numbers for RDRAND and RDSEED: the host kernel's, a buffer at a time. A number is given out once and wiped; the
 * buffer does not survive fork() into the child (MADV_WIPEONFORK), and is no part of a processor's state, so that neither a
 * forked process nor a restored guest gets a number again.
 */
#ifndef OWHP_X86_RANDOM_H
#define OWHP_X86_RANDOM_H

#include "util/compiler.h"
#include "util/types.h"

struct random_buffer;

/* NULL: no memory; random_take then asks the kernel each time. */
struct random_buffer *random_create(void);
void random_destroy(struct random_buffer *buffer);

/* False: the host has no random numbers yet (early boot). One thread at a time. */
must_check bool random_take(struct random_buffer *buffer, uint64_t *value);

#endif
