/*
 * Memory slots mirror the guest memory space.
 *
 * A mapping that is readable and executable gets a slot: read-only unless it is writable. All others (no access, no execution,
 * memory of other processes, the page of a local APIC) must not be reached by KVM, so that every access to them comes to us,
 * where the software processor finds the mapping, serves the access or makes the exit. Where KVM runs guests on hardware they
 * get a slot too, whose host memory nobody may access, the wall: every access there, page walks included, ends KVM_RUN with
 * EFAULT and nothing of the instruction done. Where KVM interprets guests the wall does no good: no slot, and
 * kvm_half_done.c. Holes have no slot either way, nor what is left when KVM has no slot left: nothing fails, it is only slow.
 *
 * Slots cannot be changed in place. A change replaces the slots that it touches; the processors are out of the guest, and what
 * of those slots lies outside the changed range is put back as it was.
 * Slots of tracked memory have their stores recorded: kvm_dirty.c.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "engine/kvm/kvm.h"

/* Addresses only. Larger ranges take several slots. */
#define WALL_SIZE ((uint64_t)1 << 38)

void kvm_slots_init(struct kvm_partition *kvm)
{
    int limit = kvm_call(kvm->vm, KVM_CHECK_EXTENSION, (void *)KVM_CAP_NR_MEMSLOTS);
    char why[128];

    kvm->id_limit = limit > 0 ? (uint32_t)limit : 32;
    if (kvm_is_fast(why, sizeof(why)))
        kvm->wall = mmap(NULL, WALL_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (kvm->wall == MAP_FAILED)
        kvm->wall = NULL;
}

void kvm_slots_fini(struct kvm_partition *kvm)
{
    if (kvm->wall)
        munmap(kvm->wall, WALL_SIZE);
    free(kvm->slots);
    free(kvm->free_ids);
}

/* ---- slots ---- */

static bool set_slot(const struct kvm_partition *kvm, const struct kvm_slot *slot, uint64_t size)
{
    struct kvm_userspace_memory_region region = {.slot = slot->id, .flags = size ? slot->flags : 0, .guest_phys_addr = slot->gpa,
                                                 .memory_size = size, .userspace_addr = (uintptr_t)slot->host};

    return !kvm_call(kvm->vm, KVM_SET_USER_MEMORY_REGION, &region);
}

/* The first slot that ends above gpa. */
static size_t find_slot(const struct kvm_partition *kvm, gpa_t gpa)
{
    size_t low = 0, high = kvm->slot_count;

    while (low < high) {
        size_t middle = (low + high) / 2;
        if (kvm->slots[middle].gpa + kvm->slots[middle].size > gpa)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

static bool take_id(struct kvm_partition *kvm, uint32_t *id)
{
    if (kvm->free_count) {
        *id = kvm->free_ids[--kvm->free_count];
        return true;
    }
    if (kvm->next_id == kvm->id_limit)
        return false;
    *id = kvm->next_id++;
    return true;
}

/* Ids that cannot be remembered are lost; there are others. */
static void give_id(struct kvm_partition *kvm, uint32_t id)
{
    if (kvm->free_count == kvm->free_room) {
        size_t room = kvm->free_room ? 2 * kvm->free_room : 16;
        uint32_t *ids = realloc(kvm->free_ids, room * sizeof(*ids));
        if (!ids)
            return;
        kvm->free_ids = ids;
        kvm->free_room = room;
    }
    kvm->free_ids[kvm->free_count++] = id;
}

static void remove_slots(struct kvm_partition *kvm, size_t first, size_t count)
{
    for (size_t i = first; i < first + count; i++) {
        (void)set_slot(kvm, &kvm->slots[i], 0);
        give_id(kvm, kvm->slots[i].id);
    }
    memmove(&kvm->slots[first], &kvm->slots[first + count], (kvm->slot_count - first - count) * sizeof(kvm->slots[0]));
    kvm->slot_count -= count;
}

static bool make_room(struct kvm_partition *kvm)
{
    if (kvm->slot_count < kvm->slot_room)
        return true;
    size_t room = kvm->slot_room ? 2 * kvm->slot_room : 16;
    struct kvm_slot *slots = realloc(kvm->slots, room * sizeof(*slots));
    if (!slots)
        return false;
    kvm->slots = slots;
    kvm->slot_room = room;
    return true;
}

/* Without a slot, accesses are only slow: failing is no failure. */
static void add_slot(struct kvm_partition *kvm, struct kvm_slot slot)
{
    size_t at = find_slot(kvm, slot.gpa);

    if (!make_room(kvm) || !take_id(kvm, &slot.id))
        return;
    if (!set_slot(kvm, &slot, slot.size)) {
        give_id(kvm, slot.id);
        return;
    }
    memmove(&kvm->slots[at + 1], &kvm->slots[at], (kvm->slot_count - at) * sizeof(kvm->slots[0]));
    kvm->slots[at] = slot;
    kvm->slot_count++;
}

/* KVM counts a slot's pages in 31 bits. */
#define SLOT_LARGEST ((uint64_t)1 << 42)

/* Where processors see a local APIC instead of the memory that is mapped there, as they are after a reset. */
#define APIC_DEFAULT_PAGE 0xfee00000ull

static bool is_apic(const struct engine_partition *p, gpa_t page)
{
    return page == APIC_DEFAULT_PAGE && p->config->apic_mode != APIC_MODE_NONE;
}

static void add_slots(struct kvm_partition *kvm, struct kvm_slot slot, gpa_t to, uint64_t most)
{
    uint8_t *const host = slot.host;

    for (gpa_t from = slot.gpa; from < to; from += most) {
        slot.gpa = from;
        slot.size = to - from < most ? to - from : most;
        add_slot(kvm, slot);
        slot.host = host == kvm->wall ? host : slot.host + slot.size;
    }
}

static void add_view(struct engine_partition *p, const struct gpa_view *view, gpa_t from, gpa_t to)
{
    const uint32_t needed = GPA_READ | GPA_EXECUTE;
    uint32_t flags = view->flags & GPA_WRITE ? 0 : KVM_MEM_READONLY;

    if (!view->host || from >= to)
        return;
    if (view->source || (view->flags & needed) != needed || is_apic(p, from)) {
        if (p->kvm->wall)
            add_slots(p->kvm, (struct kvm_slot){.gpa = from, .host = p->kvm->wall}, to, WALL_SIZE);
        return;
    }
    if (view->dirty && (view->flags & GPA_WRITE))
        flags |= KVM_MEM_LOG_DIRTY_PAGES;
    add_slots(p->kvm, (struct kvm_slot){.gpa = from, .host = gpa_view_host(view, from), .flags = flags}, to, SLOT_LARGEST);
}

/* The same, apart from the page of the local APICs. */
static void add_around_apic(struct engine_partition *p, const struct gpa_view *view, gpa_t from, gpa_t to)
{
    const gpa_t apic = APIC_DEFAULT_PAGE, behind = apic + PAGE_SIZE;

    if (!is_apic(p, apic) || from >= behind || to <= apic) {
        add_view(p, view, from, to);
        return;
    }
    add_view(p, view, from, apic);
    add_view(p, view, apic, behind);
    add_view(p, view, behind, to);
}

/* The range of the change and of all slots that it touches: away with them, then as the space has it now. */
static void replace(struct engine_partition *p, gpa_t from, gpa_t to)
{
    struct kvm_partition *kvm = p->kvm;
    size_t first = find_slot(kvm, from), end = first;
    struct gpa_view view;

    while (end < kvm->slot_count && kvm->slots[end].gpa < to)
        end++;
    if (end > first) {
        const struct kvm_slot *last = &kvm->slots[end - 1];
        from = kvm->slots[first].gpa < from ? kvm->slots[first].gpa : from;
        to = last->gpa + last->size > to ? last->gpa + last->size : to;
        remove_slots(kvm, first, end - first);
    }
    while (from < to) {
        (void)gpa_space_find(p->space, from, &view);
        gpa_t stop = view.gpa + view.size < to ? view.gpa + view.size : to;
        add_around_apic(p, &view, from, stop);
        from = stop;
    }
}

bool kvm_apic_is_hidden(const struct engine_vcpu *vcpu)
{
    const struct kvm_partition *kvm = vcpu->partition->kvm;
    gpa_t page = vcpu->lapic ? lapic_page(vcpu->lapic) : LAPIC_NO_PAGE;

    if (likely(page == LAPIC_NO_PAGE || page == APIC_DEFAULT_PAGE))
        return false;
    size_t at = find_slot(kvm, page);
    return at < kvm->slot_count && kvm->slots[at].gpa <= page && kvm->slots[at].host != kvm->wall;
}

void kvm_memory_changed(struct engine_partition *p, const struct gpa_change *change)
{
    if (change->kind == GPA_CHANGE_DIRTY_CLEAR)
        kvm_dirty_cleared(p);
    else
        replace(p, change->range.gpa, change->range.gpa + change->range.size);
}
