/* Addresses and sizes used everywhere: a guest address is a type, never a pointer. */
#ifndef OWHP_UTIL_TYPES_H
#define OWHP_UTIL_TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint64_t gpa_t; /* guest physical address, bytes */
typedef uint64_t gva_t; /* guest virtual (linear) address, bytes */

#define PAGE_SHIFT 12u
#define PAGE_SIZE  ((uint64_t)4096)
#define PAGE_MASK  (~(uint64_t)4095) /* keeps the page number */

typedef unsigned __int128 uint128_t;

#endif
