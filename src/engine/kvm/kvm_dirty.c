/*
 * Which pages the guest stores to while KVM runs it. KVM has two records of them, and a virtual machine has one of the two.
 *
 * Either is read before a processor that was in the guest counts as being at a safe point; so when all are held, what they
 * stored is marked.
 *
 * Rings, one for each processor, where KVM runs guests on hardware: the cost follows the pages that are written. A page that
 * was drained stays writable until the rings are reset, which happens before the processors go on after a harvest; that is
 * invariant W (mem/gpa_dirty.c).
 *
 * The log, a bitmap for each slot, where KVM interprets guests, or has no rings: to collect it also takes the pages' writability
 * back. The cost follows the memory that is tracked. It is one for all processors: whoever collects marks the pages of the
 * others too, and is not at a safe point himself before that is done. A KVM that interprets is not to be
 * trusted with rings: it enters a page for every store to it and looks for a full ring only now and then, so it writes beyond
 * the end, over entries that it has not taken back, and never finds to itself again.
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

/* Without a bitmap that can be trusted every page of the slot counts as written: none may be missed. */
static void collect_slot(const struct engine_partition *p, const struct kvm_slot *slot)
{
    const uint64_t pages = slot->size >> PAGE_SHIFT, words = (pages + 63) / 64;
    uint64_t *bitmap = calloc(words, sizeof(*bitmap));
    struct kvm_dirty_log log = {.slot = slot->id, .dirty_bitmap = bitmap};
    struct gpa_view view = {0};

    if (!bitmap || kvm_call(p->kvm->vm, KVM_GET_DIRTY_LOG, &log)) {
        for (uint64_t i = 0; i < pages; i++)
            mark_page(p, slot->gpa + (i << PAGE_SHIFT), &view);
    } else {
        for (uint64_t word = 0; word < words; word++)
            for (uint64_t bits = bitmap[word]; bits; bits &= bits - 1)
                mark_page(p, slot->gpa + ((word * 64 + (unsigned)__builtin_ctzll(bits)) << PAGE_SHIFT), &view);
    }
    free(bitmap);
}

void kvm_log_collect(struct engine_vcpu *vcpu)
{
    const struct kvm_partition *kvm = vcpu->partition->kvm;

    if (kvm->ring_size)
        return;
    for (size_t i = 0; i < kvm->slot_count; i++)
        if (kvm->slots[i].flags & KVM_MEM_LOG_DIRTY_PAGES)
            collect_slot(vcpu->partition, &kvm->slots[i]);
}
