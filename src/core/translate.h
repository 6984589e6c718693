/* Guest virtual to guest physical, as a processor would do it now (WHvTranslateGva). */
#ifndef OWHP_CORE_TRANSLATE_H
#define OWHP_CORE_TRANSLATE_H

#include "core/partition.h"
#include "x86/memory/walk.h"

/* The numbers are the API's. */
enum {
    TRANSLATE_READ = 1,
    TRANSLATE_WRITE = 2,
    TRANSLATE_EXECUTE = 4,
    TRANSLATE_PRIVILEGE_EXEMPT = 8,
    TRANSLATE_SET_BITS = 0x10,
    TRANSLATE_ENFORCE_SMAP = 0x100,
    TRANSLATE_OVERRIDE_SMAP = 0x200,
    TRANSLATE_ALL_FLAGS = 0x31f,
};

enum translate_result {
    TRANSLATE_SUCCESS,
    TRANSLATE_PAGE_NOT_PRESENT,
    TRANSLATE_PRIVILEGE_VIOLATION,
    TRANSLATE_INVALID_FLAGS,
    TRANSLATE_GPA_UNMAPPED,
    TRANSLATE_GPA_NO_READ,
    TRANSLATE_GPA_NO_WRITE,
};

/*
 * *gpa: with the page offset on success; for the TRANSLATE_GPA_ results the page of the table that cannot be used;
 * else 0. The final page need not be mapped.
 * STATUS_INVALID_ARGUMENT   unknown flags, or both SMAP flags
 * STATUS_VP_DOES_NOT_EXIST, STATUS_INVALID_VP_STATE (it runs)
 */
must_check enum status translate_gva(struct vcpu *vcpu, gva_t gva, uint32_t flags, enum translate_result *result,
                                     gpa_t *gpa);

/* One of many. */
struct translation {
    gva_t gva;
    enum translate_result result;
    gpa_t gpa; /* as above */
};

/*
 * The same for many addresses, with the processor had only once, and the last used piece of memory remembered from entry to
 * entry. `some` may be called any number of times between begin and end; begin may fail as translate_gva does.
 */
struct translate_batch {
    struct vcpu *vcpu;
    struct walk_state state;
    uint32_t flags; /* walk's */
};

must_check enum status translate_begin(struct vcpu *vcpu, uint32_t flags, struct translate_batch *batch);
void translate_some(const struct translate_batch *batch, struct translation *array, size_t count);
void translate_end(const struct translate_batch *batch);

#endif
