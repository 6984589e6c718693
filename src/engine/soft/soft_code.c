/*
 * Code: who has decoded what memory, and who must hear of stores to it.
 *
 * Known by memory, not by guest address. Memory may be mapped at several guest addresses; a processor runs code at one of them,
 * and a store through any is a store to the code. So everything here goes by the memory's place (gpa_view_place): the host's
 * address, in our process or over there.
 *
 * The counters. For each page of memory, code_users counts the guest pages of which some processor has decoded code and which
 * are that memory, and the copies of it (soft_copied.c). Pages whose numbers fall together share a counter: that only makes
 * stores slow that need not be. Who counts keeps the place it counted (struct code_page, struct copied_page), and counts that
 * out again, whatever the guest address is by then.
 *
 * Stores of processors. The first one that decodes code of a page counts it and makes all others drop their write tags, those
 * of all guest addresses; from then on page() answers PAGE_CODE for whatever guest page is that memory, also if it is mapped
 * there only later. So no processor has a fast way to store there:
 *
 *      decodes                                     stores
 *      begin: leave, holds++                       page(): looks at the counter, fills a write tag
 *      count
 *      end: all others drop write tags; wait       (filled before the wait: it is dropped; after it: the counter is seen)
 *      enter, ask again which memory it is
 *      read the code
 *
 * Each slow store kills the processor's own blocks of that memory, at all guest addresses, and makes the other processors, if
 * any of them has code of it, compare their decoded code with memory (cpu_verify_code). No waiting there: x86 lets the other
 * processor see the new code only after it has synchronized with the writer (SDM 3A 8.1.3), and the request bit is set before
 * the writer's next store.
 *
 * Stores of other threads (WHvWriteGpaRange, OwhpMarkDirty) come with their place, and are told in the same way. Those that
 * nobody tells of, of the client's own pointer or of another partition that has the memory too, are found at the next exit or
 * interrupt.
 *
 * Changes of the mappings. A block holds only if its guest page is still the memory that is counted for it (code.h). Who maps
 * holds all processors, and each forgets all host addresses before it goes on: then every block is looked at before it runs,
 * and one of other memory dies. From the end of the wait above until the decoder has read nothing can change, for the
 * processor is inside; what changed during the wait it sees when it asks again.
 */
#include "engine/soft/soft.h"
#include "os/read_section.h"
#include "x86/code/code.h"

static _Atomic uint8_t *slot_of(const struct engine_partition *p, uint64_t place)
{
    uint64_t number = place >> PAGE_SHIFT;

    return &p->code_users[(number ^ number >> 20) % CODE_SLOTS];
}

static uint64_t place_of(const uint8_t *host)
{
    return (uintptr_t)host;
}

/* ---- counting ---- */

bool soft_is_code(const struct engine_partition *p, uint64_t place)
{
    return atomic_load_explicit(slot_of(p, place), memory_order_relaxed) != 0;
}

/* Counters stick at their maximum: a page that so many share stays slow. */
void soft_code_count(struct engine_partition *p, uint64_t place)
{
    _Atomic uint8_t *slot = slot_of(p, place);
    uint8_t users = atomic_load(slot);

    while (users != UINT8_MAX && !atomic_compare_exchange_weak(slot, &users, (uint8_t)(users + 1)))
        continue;
    change_side_barrier(); /* soft_wrote */
}

void soft_code_uncount(struct engine_partition *p, uint64_t place)
{
    _Atomic uint8_t *slot = slot_of(p, place);
    uint8_t users = atomic_load(slot);

    while (users && users != UINT8_MAX && !atomic_compare_exchange_weak(slot, &users, (uint8_t)(users - 1)))
        continue;
}

/* One more, if there is one. */
static bool join_users(struct engine_partition *p, uint64_t place)
{
    _Atomic uint8_t *slot = slot_of(p, place);
    uint8_t users = atomic_load(slot);

    while (users && users != UINT8_MAX && !atomic_compare_exchange_weak(slot, &users, (uint8_t)(users + 1)))
        continue;
    return users != 0;
}

/* Who joins the first one while that still waits for the others, has to wait with it: they have their write tags yet. */
void soft_code_page(struct cpu *cpu, const uint8_t *host)
{
    struct engine_vcpu *vcpu = vcpu_of(cpu);
    struct engine_partition *p = vcpu->partition;

    if (p->config->processor_count == 1) {
        soft_code_count(p, place_of(host));
    } else if (!join_users(p, place_of(host))) {
        soft_write_tags_begin(vcpu);
        soft_code_count(p, place_of(host));
        soft_write_tags_end(vcpu);
    } else if (atomic_load(&p->holds)) {
        soft_leave(vcpu);
        soft_enter(vcpu);
        soft_memory_work(vcpu);
    }
}

void soft_code_page_dropped(struct cpu *cpu, const uint8_t *host)
{
    soft_code_uncount(vcpu_of(cpu)->partition, place_of(host));
}

/* ---- stores ---- */

/* Does anybody count the page, besides the `own` that the asker has counted? */
static bool has_users(const struct engine_partition *p, uint64_t place, unsigned own)
{
    const unsigned users = atomic_load_explicit(slot_of(p, place), memory_order_relaxed);

    return users == UINT8_MAX || users > own;
}

/* Code that patches only itself disturbs nobody. Our store comes before our look at the counter, and who joins counts itself
 * before it reads: either we see it, or it sees our store. */
void soft_code_stored(struct engine_vcpu *vcpu, uint64_t place, uint64_t size, unsigned own)
{
    struct engine_partition *p = vcpu->partition;

    if (p->config->processor_count == 1)
        return;
    atomic_thread_fence(memory_order_seq_cst);
    if (has_users(p, place, own))
        soft_pend_all(p, vcpu, PENDING_VERIFY_CODE, REQUEST_FLUSH);
    soft_monitor_wrote(p, vcpu, place, size);
}

void soft_code_written(struct cpu *cpu, const uint8_t *host, uint64_t size)
{
    struct engine_vcpu *vcpu = vcpu_of(cpu);
    const size_t offset = (uintptr_t)host & ~PAGE_MASK;

    if (vcpu->partition->config->processor_count > 1)
        soft_code_stored(vcpu, place_of(host), size, code_pages_of(cpu, host - offset));
}

/* More pages than this are not looked at one by one. */
enum { WROTE_PAGES = 1024 };

static bool has_code(const struct engine_partition *p, uint64_t place, uint64_t size)
{
    const uint64_t last = (place + size - 1) & PAGE_MASK;

    if (size > (uint64_t)WROTE_PAGES << PAGE_SHIFT)
        return true;
    for (uint64_t page = place & PAGE_MASK; page <= last; page += PAGE_SIZE)
        if (has_users(p, page, 0))
            return true;
    return false;
}

/* A processor counts itself in before it reads code, and our stores come before our look at the counter. So either we see it, or
 * it sees our stores. The barrier is made by who counts (soft_code_count): a page becomes code seldom, and is written often. */
void soft_wrote(void *context, uint64_t place, uint64_t size)
{
    read_side_barrier();
    if (has_code(context, place, size))
        soft_pend_all(context, NULL, PENDING_VERIFY_CODE, REQUEST_FLUSH);
    soft_monitor_wrote(context, NULL, place, size);
}
