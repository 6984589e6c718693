/*
 * Which pages the guest stores to while KVM runs it. KVM has two records of them, and a virtual machine has one of the two.
 *
 * Rings, one for each processor, where KVM runs guests on hardware: the cost follows the pages that are written. Each is
 * drained before its processor counts as being at a safe point; so when all are held, what they stored is marked. A page that
 * was drained stays writable until the rings are reset, which happens before the processors go on after a harvest; that is
 * invariant W (mem/gpa_dirty.c).
 *
 * The log, a bitmap for each slot, where KVM interprets guests, or has no rings. The cost follows the memory that is tracked, so
 * exits do not look at it: whoever holds the processors does, once, if one of them was in KVM since the last time. What is found
 * there is cleared, which takes the pages' writability back; that is a call of its own (KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2), for
 * nearly always nothing is found, and then to read is all that need be done. A KVM that interprets is not to be trusted with
 * rings: it enters a page for every store to it and looks for a full ring only now and then, so it writes beyond the end, over
 * entries that it has not taken back, and never finds to itself again.
 */
#include <stdlib.h>
#include <string.h>

#include "engine/kvm/kvm.h"

/* ---- rings ---- */

static void mark(struct engine_vcpu *vcpu, const struct kvm_dirty_gfn *entry)
{
    const struct kvm_partition *kvm = vcpu->partition->kvm;

    for (size_t i = 0; i < kvm->slot_count; i++) {
        if (kvm->slots[i].id != (entry->slot & 0xffff))
            continue;
        gpa_t gpa = kvm->slots[i].gpa + (entry->offset << PAGE_SHIFT);
        if (entry->offset < kvm->slots[i].size >> PAGE_SHIFT && soft_find_view(vcpu, gpa))
            gpa_view_mark_dirty(&vcpu->view, gpa);
        return;
    }
}

void kvm_ring_drain(struct engine_vcpu *vcpu)
{
    struct kvm_vcpu *k = vcpu->kvm;

    while (k->ring) {
        struct kvm_dirty_gfn *entry = &k->ring[k->ring_next & (k->ring_entries - 1)];
        if (!(__atomic_load_n(&entry->flags, __ATOMIC_ACQUIRE) & KVM_DIRTY_GFN_F_DIRTY))
            return;
        mark(vcpu, entry);
        __atomic_store_n(&entry->flags, KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
        k->ring_next++;
    }
}

void kvm_dirty_cleared(struct engine_partition *p)
{
    if (p->kvm->ring_size)
        (void)kvm_call(p->kvm->vm, KVM_RESET_DIRTY_RINGS, NULL);
}

/* ---- the log ---- */

static void mark_page(const struct engine_partition *p, gpa_t gpa, struct gpa_view *view)
{
    if (gpa - view->gpa >= view->size)
        (void)gpa_space_find(p->space, gpa, view);
    if (view->host)
        gpa_view_mark_dirty(view, gpa);
}

static void mark_words(const struct engine_partition *p, gpa_t gpa, const uint64_t *words, uint64_t count)
{
    struct gpa_view view = {0};

    for (uint64_t word = 0; word < count; word++)
        for (uint64_t bits = words[word]; bits; bits &= bits - 1)
            mark_page(p, gpa + ((word * 64 + (unsigned)__builtin_ctzll(bits)) << PAGE_SHIFT), &view);
}

/* Nearly all of a large bitmap is zero: it is looked at in pieces. */
enum { PIECE = 64 };

static bool is_zero(const uint64_t piece[PIECE])
{
    uint64_t any = 0;

    for (unsigned i = 0; i < PIECE; i++)
        any |= piece[i];
    return !any;
}

/* Words of a bitmap from the first dirty page's to the last one's. */
struct span {
    uint64_t first, end;
};

static struct span mark_bitmap(const struct engine_partition *p, gpa_t gpa, const uint64_t *bitmap, uint64_t words)
{
    const gpa_t step = (gpa_t)PIECE * 64 << PAGE_SHIFT;
    struct span found = {0, 0};

    for (uint64_t at = 0; at < words; at += PIECE, gpa += step) {
        if (likely(is_zero(bitmap + at)))
            continue;
        mark_words(p, gpa, bitmap + at, PIECE);
        found.first = found.end ? found.first : at;
        found.end = at + PIECE < words ? at + PIECE : words;
    }
    return found;
}

/* If it fails, the pages stay writable and are found again. */
static void clear_log(const struct kvm_partition *kvm, const struct kvm_slot *slot, struct span span)
{
    const uint64_t pages = slot->size >> PAGE_SHIFT, first = span.first * 64, end = span.end * 64 < pages ? span.end * 64 : pages;
    struct kvm_clear_dirty_log log = {.slot = slot->id, .first_page = first, .num_pages = (uint32_t)(end - first),
                                      .dirty_bitmap = kvm->bitmap + span.first};

    if (span.end && kvm->clears_log)
        (void)kvm_call(kvm->vm, KVM_CLEAR_DIRTY_LOG, &log);
}

/* Room for a slot's bitmap, in whole pieces; what is behind the slot's own stays zero. NULL: no memory. */
static uint64_t *bitmap_for(struct kvm_partition *kvm, uint64_t words)
{
    const uint64_t room = (words + PIECE - 1) / PIECE * PIECE;

    if (room > kvm->bitmap_room) {
        free(kvm->bitmap);
        kvm->bitmap = calloc(room, sizeof(*kvm->bitmap));
        kvm->bitmap_room = kvm->bitmap ? room : 0;
    }
    if (kvm->bitmap)
        memset(kvm->bitmap + words, 0, (room - words) * sizeof(*kvm->bitmap));
    return kvm->bitmap;
}

/* Without a bitmap that can be trusted every page of the slot counts as written: none may be missed. */
static void collect_slot(struct engine_partition *p, const struct kvm_slot *slot)
{
    const uint64_t pages = slot->size >> PAGE_SHIFT, words = (pages + 63) / 64;
    struct kvm_dirty_log log = {.slot = slot->id, .dirty_bitmap = bitmap_for(p->kvm, words)};
    struct gpa_view view = {0};

    if (log.dirty_bitmap && !kvm_call(p->kvm->vm, KVM_GET_DIRTY_LOG, &log)) {
        clear_log(p->kvm, slot, mark_bitmap(p, slot->gpa, log.dirty_bitmap, words));
        return;
    }
    for (uint64_t i = 0; i < pages; i++)
        mark_page(p, slot->gpa + (i << PAGE_SHIFT), &view);
}

void kvm_log_collect(struct engine_partition *p)
{
    struct kvm_partition *kvm = p->kvm;

    if (kvm->ring_size || !atomic_exchange(&kvm->was_entered, false))
        return;
    for (size_t i = 0; i < kvm->slot_count; i++)
        if (kvm->slots[i].flags & KVM_MEM_LOG_DIRTY_PAGES)
            collect_slot(p, &kvm->slots[i]);
}
