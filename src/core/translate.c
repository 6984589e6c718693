#include "core/translate.h"

#include "mem/gpa_access.h"
#include "os/guarded.h"
#include "util/last_error.h"
#include "x86/memory/walk_common.h"

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

/* Tables lie side by side: the mapping of the last entry is most often that of the next. In one read section. */
struct tables {
    const struct gpa_space *space;
    struct gpa_view view;
};

static inline enum walk_status load(void *context, gpa_t gpa, unsigned size, uint64_t *value)
{
    struct tables *tables = context;
    const struct gpa_view *view = &tables->view;

    if (likely(size == sizeof(*value) && gpa - view->gpa < view->size && (view->flags & GPA_READ) && !view->source &&
               guarded_load64(gpa_view_host(view, gpa), value)))
        return WALK_OK;
    return walk_status_of(gpa_space_load_entry_by(tables->space, &tables->view, gpa, size, value), WALK_TABLE_NO_READ);
}

static enum walk_status update(void *context, gpa_t gpa, unsigned size, uint64_t old, uint64_t value, bool *done)
{
    const struct tables *tables = context;
    return walk_status_of(gpa_space_exchange_entry(tables->space, gpa, size, old, value, done), WALK_TABLE_NO_WRITE);
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
    wanted |= flags & TRANSLATE_SET_BITS ? WALK_SET_BITS | WALK_KEEP_BITS : 0;
    wanted |= flags & TRANSLATE_ENFORCE_SMAP ? WALK_ENFORCE_SMAP : 0;
    wanted |= flags & TRANSLATE_OVERRIDE_SMAP ? WALK_OVERRIDE_SMAP : 0;
    return wanted;
}

static enum status check_flags(uint32_t flags)
{
    const uint32_t both = TRANSLATE_ENFORCE_SMAP | TRANSLATE_OVERRIDE_SMAP;

    if (flags & ~(uint32_t)TRANSLATE_ALL_FLAGS)
        return fail(STATUS_INVALID_ARGUMENT, "translation flags %#x: unknown bits", flags);
    if ((flags & both) == both)
        return fail(STATUS_INVALID_ARGUMENT, "translation flags %#x: SMAP both enforced and overridden", flags);
    return STATUS_OK;
}

enum status translate_begin(struct vcpu *vcpu, uint32_t flags, struct translate_batch *batch)
{
    uint8_t cpl = 0;
    enum status status = check_flags(flags);

    if (status == STATUS_OK)
        status = vcpu_begin_use(vcpu);
    if (status != STATUS_OK)
        return status;
    *batch = (struct translate_batch){.vcpu = vcpu};
    vcpu->partition->engine->walk_state(vcpu->engine, &batch->state, &cpl);
    batch->flags = walk_flags(flags, cpl);
    return STATUS_OK;
}

/* Four levels and nothing out of the ordinary, with `load` compiled in; everything else asks the walk of all modes. */
static always_inline enum walk_status walk_here(const struct walk_state *state, struct tables *tables, gva_t gva, uint32_t flags,
                                                struct walk_result *walked)
{
    const struct walk_memory memory = {.context = tables, .load = load, .update = update};
    enum walk_status end;

    if (likely((state->cr0 & CR0_PG) && (state->efer & EFER_LMA) && !(state->cr4 & CR4_LA57)) &&
        likely(walk_common(state, &memory, gva, flags, walked, &end, 48)))
        return end;
    return walk(state, &memory, gva, flags, walked);
}

void translate_some(const struct translate_batch *batch, struct translation *array, size_t count)
{
    struct gpa_space *space = batch->vcpu->partition->space;
    struct tables tables = {.space = space};

    gpa_space_read_begin(space);
    for (size_t i = 0; i < count; i++) {
        struct walk_result walked;
        const enum walk_status end = walk_here(&batch->state, &tables, array[i].gva, batch->flags, &walked);
        array[i].result = results[end];
        array[i].gpa = end == WALK_OK                                ? walked.gpa
                       : array[i].result >= TRANSLATE_GPA_UNMAPPED ? walked.gpa & PAGE_MASK
                                                                     : 0;
    }
    gpa_space_read_end(space);
}

void translate_end(const struct translate_batch *batch)
{
    vcpu_end_use(batch->vcpu);
}

enum status translate_gva(struct vcpu *vcpu, gva_t gva, uint32_t flags, enum translate_result *result, gpa_t *gpa)
{
    struct translate_batch batch;
    struct translation one = {.gva = gva};
    enum status status = translate_begin(vcpu, flags, &batch);

    if (status != STATUS_OK)
        return status;
    translate_some(&batch, &one, 1);
    translate_end(&batch);
    *result = one.result;
    *gpa = one.gpa;
    return STATUS_OK;
}
