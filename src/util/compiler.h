/* The compiler's extensions, named once. */
#ifndef OWHP_UTIL_COMPILER_H
#define OWHP_UTIL_COMPILER_H

#define likely(x)        __builtin_expect(!!(x), 1)
#define unlikely(x)      __builtin_expect(!!(x), 0)
#define must_check       __attribute__((warn_unused_result))
#define noinline         __attribute__((noinline))
#define always_inline    inline __attribute__((always_inline))
#define array_size(a)    (sizeof(a) / sizeof((a)[0]))
#define container_of(p, type, member) ((type *)(void *)((char *)(p)-offsetof(type, member)))

#endif
