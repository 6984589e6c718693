/* Guest virtual to guest physical, as a processor would do it now (WHvTranslateGva). */
#ifndef OWHP_CORE_TRANSLATE_H
#define OWHP_CORE_TRANSLATE_H

#include "core/partition.h"

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

#endif
