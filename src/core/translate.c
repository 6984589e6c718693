#include "core/translate.h"

#include "mem/gpa_access.h"
#include "util/last_error.h"
#include "x86/walk.h"

static enum walk_status walk_status_of(enum gpa_result result, enum walk_status refused)
{
    switch (result) {
    case GPA_RESULT_OK:
        return WALK_OK;
    case GPA_RESULT_UNMAPPED:
        return WALK_TABLE_UNMAPPED;
    case GPA_RESULT_NO_ACCESS:
    case GPA_RESULT_NO_HOST:
        break;
    }
    return refused;
}

static enum walk_status load(void *context, gpa_t gpa, unsigned size, uint64_t *value)
{
    return walk_status_of(gpa_space_load_entry(context, gpa, size, value), WALK_TABLE_NO_READ);
}

static enum walk_status update(void *context, gpa_t gpa, unsigned size, uint64_t old, uint64_t value, bool *done)
{
    return walk_status_of(gpa_space_exchange_entry(context, gpa, size, old, value, done), WALK_TABLE_NO_WRITE);
}

/* By enum walk_status. */
static const enum translate_result results[] = {
    [WALK_OK] = TRANSLATE_SUCCESS,
    [WALK_NOT_PRESENT] = TRANSLATE_PAGE_NOT_PRESENT,
    [WALK_PRIVILEGE] = TRANSLATE_PRIVILEGE_VIOLATION,
    [WALK_RESERVED_BITS] = TRANSLATE_INVALID_FLAGS,
    [WALK_NOT_CANONICAL] = TRANSLATE_PAGE_NOT_PRESENT,
    [WALK_TABLE_UNMAPPED] = TRANSLATE_GPA_UNMAPPED,
    [WALK_TABLE_NO_READ] = TRANSLATE_GPA_NO_READ,
    [WALK_TABLE_NO_WRITE] = TRANSLATE_GPA_NO_WRITE,
    [WALK_TABLE_STOPPED] = TRANSLATE_GPA_UNMAPPED, /* never: load and update do not stop */
};

static uint32_t walk_flags(uint32_t flags, uint8_t cpl)
{
    uint32_t wanted = 0;

    wanted |= flags & TRANSLATE_READ ? WALK_READ : 0;
    wanted |= flags & TRANSLATE_WRITE ? WALK_WRITE : 0;
    wanted |= flags & TRANSLATE_EXECUTE ? WALK_EXECUTE : 0;
    wanted |= cpl == 3 && !(flags & TRANSLATE_PRIVILEGE_EXEMPT) ? WALK_USER : 0;
    wanted |= flags & TRANSLATE_SET_BITS ? WALK_SET_BITS : 0;
    wanted |= flags & TRANSLATE_ENFORCE_SMAP ? WALK_ENFORCE_SMAP : 0;
    wanted |= flags & TRANSLATE_OVERRIDE_SMAP ? WALK_OVERRIDE_SMAP : 0;
    return wanted;
}

enum status translate_gva(struct vcpu *vcpu, gva_t gva, uint32_t flags, enum translate_result *result, gpa_t *gpa)
{
    const uint32_t both = TRANSLATE_ENFORCE_SMAP | TRANSLATE_OVERRIDE_SMAP;
    struct partition *partition = vcpu->partition;
    struct walk_memory memory = {.context = partition->space, .load = load, .update = update};
    struct walk_state state = {0};
    struct walk_result walked = {0};
    uint8_t cpl = 0;

    if (flags & ~(uint32_t)TRANSLATE_ALL_FLAGS)
        return fail(STATUS_INVALID_ARGUMENT, "translation flags %#x: unknown bits", flags);
    if ((flags & both) == both)
        return fail(STATUS_INVALID_ARGUMENT, "translation flags %#x: SMAP both enforced and overridden", flags);
    enum status status = vcpu_begin_access(vcpu);
    if (status != STATUS_OK)
        return status;
    partition->engine->walk_state(vcpu->engine, &state, &cpl);
    gpa_space_read_begin(partition->space);
    enum walk_status end = walk(&state, &memory, gva, walk_flags(flags, cpl), &walked);
    gpa_space_read_end(partition->space);
    vcpu_end_access(vcpu);

    *result = results[end];
    *gpa = end == WALK_OK ? walked.gpa : *result >= TRANSLATE_GPA_UNMAPPED ? walked.gpa & PAGE_MASK : 0;
    return STATUS_OK;
}
