/*
 * MONITOR and MWAIT.
 *
 * MONITOR makes stores to the page of its line noticeable, as those to code are (soft_code.c): the other processors lose
 * their write tags and page() answers PAGE_CODE, so that every store goes the slow way and is reported here. The page stays so
 * until MONITOR takes another one: who waits for the same line again and again pays once. Then the line is armed; whoever
 * stores to it disarms it and wakes its processor. MWAIT sleeps while its line is armed.
 *
 *      waiter                                  writer
 *      arm the line                            store
 *      (guest) load, decide to wait            fence
 *      request empty and armed? sleep          line armed? disarm it; request |= INTERRUPT, signal
 *
 * Arming is an exchange, so the guest's load comes after it: either it sees the store, or the writer sees the line.
 *
 * Line and page are known by their place in memory (gpa_view_place), so that stores through any guest address are noticed. When the
 * mappings change, all lines are disarmed: MWAIT may end at any time (SDM 2B MWAIT). A run's exit ends it too; so nothing of
 * this is in a snapshot.
 *
 * Noticed are stores of processors, of WHvWriteGpaRange and what else goes through the memory space, OwhpMarkDirty. What the
 * client stores through its own pointer is not: the run loop wakes up after 2, 4, .. 64 ms, from then on every 64, and compares
 * the line with what it was. With the kvm engine guests store unseen; nothing is armed, and MWAIT ends at once.
 */
#include <string.h>

#include "engine/soft/soft.h"
#include "mem/process_source.h"
#include "os/guarded.h"

enum { LINE = 64, ARMED = 1, FIRST_LOOK_MS = 2, LAST_LOOK_MS = 64 };

static _Atomic uint64_t *line_of(struct engine_vcpu *vcpu) { return &vcpu->partition->monitor_line[vcpu->index]; }
static _Atomic uint64_t *page_of(struct engine_vcpu *vcpu) { return &vcpu->partition->monitor_page[vcpu->index]; }

void soft_monitor_executed(struct cpu *cpu, gpa_t gpa)
{
    vcpu_of(cpu)->monitor.wanted = (gpa & ~(gpa_t)(LINE - 1)) | ARMED;
    atomic_fetch_or(&cpu->request, REQUEST_SERVICE);
}

void soft_monitor_wait(struct cpu *cpu, bool masked)
{
    struct engine_vcpu *vcpu = vcpu_of(cpu);

    if (!atomic_load(line_of(vcpu)) && !vcpu->monitor.wanted)
        return;
    vcpu->monitor.is_waiting = true;
    vcpu->monitor.breaks_on_masked = masked;
    vcpu->monitor.look_ms = FIRST_LOOK_MS / 2;
    atomic_fetch_or(&cpu->request, REQUEST_SERVICE);
}

/* ---- the waiter ---- */

static bool read_line(struct engine_vcpu *vcpu, gpa_t line, uint8_t bytes[LINE])
{
    const struct gpa_view *view = &vcpu->view;

    if (!soft_find_view(vcpu, line) || !(view->flags & PAGE_READ))
        return false;
    return view->source ? gpa_source_read(view, line, bytes, LINE) : guarded_copy(bytes, gpa_view_host(view, line), LINE);
}

static void take_page(struct engine_vcpu *vcpu, uint64_t page)
{
    if (atomic_load(page_of(vcpu)) == page)
        return;
    soft_write_tags_begin(vcpu);
    if (!atomic_exchange(page_of(vcpu), page))
        atomic_fetch_add(&vcpu->partition->monitors, 1);
    soft_write_tags_end(vcpu);
}

/* Taking the page may wait for the others, and the line be elsewhere when it returns. */
static bool take_line(struct engine_vcpu *vcpu, uint64_t *place)
{
    const gpa_t line = vcpu->monitor.line;

    if (!soft_find_view(vcpu, line))
        return false;
    *place = gpa_view_place(&vcpu->view, line);
    take_page(vcpu, (*place & PAGE_MASK) | ARMED);
    return soft_find_view(vcpu, line) && gpa_view_place(&vcpu->view, line) == *place;
}

void soft_monitor_arm(struct engine_vcpu *vcpu)
{
    uint64_t place;

    vcpu->monitor.line = vcpu->monitor.wanted & ~(gpa_t)ARMED;
    vcpu->monitor.wanted = 0;
    atomic_store(line_of(vcpu), 0);
    if (vcpu->partition->executor || !take_line(vcpu, &place))
        return;
    atomic_store(line_of(vcpu), place | ARMED);
    if (!read_line(vcpu, vcpu->monitor.line, vcpu->monitor.bytes))
        atomic_store(line_of(vcpu), 0);
}

bool soft_monitor_waits(struct engine_vcpu *vcpu)
{
    const uint64_t line = atomic_load(line_of(vcpu));
    uint8_t bytes[LINE];

    if (!vcpu->monitor.is_waiting)
        return false;
    vcpu->monitor.is_waiting = line && !(vcpu->monitor.breaks_on_masked && vcpu->cpu->interrupt_waiting) &&
                               read_line(vcpu, vcpu->monitor.line, bytes) && memcmp(bytes, vcpu->monitor.bytes, LINE) == 0;
    return vcpu->monitor.is_waiting;
}

unsigned soft_monitor_look_ms(struct engine_vcpu *vcpu)
{
    if (!vcpu->monitor.is_waiting)
        return 0;
    if (vcpu->monitor.look_ms < LAST_LOOK_MS)
        vcpu->monitor.look_ms = (uint8_t)(2 * vcpu->monitor.look_ms);
    return vcpu->monitor.look_ms;
}

void soft_monitor_forget(struct engine_vcpu *vcpu)
{
    vcpu->monitor.wanted = 0;
    vcpu->monitor.is_waiting = false;
    atomic_store(line_of(vcpu), 0);
    if (atomic_exchange(page_of(vcpu), 0))
        atomic_fetch_sub(&vcpu->partition->monitors, 1);
}

/* ---- writers ---- */

bool soft_monitor_is_page(const struct engine_partition *p, uint64_t place)
{
    if (likely(!atomic_load(&p->monitors)))
        return false;
    for (unsigned i = 0; i < SOFT_MAXIMUM_PROCESSORS; i++)
        if (atomic_load(&p->monitor_page[i]) == (place | ARMED))
            return true;
    return false;
}

static void wake(struct engine_partition *p, unsigned index)
{
    pthread_rwlock_rdlock(&p->members);
    if (p->vcpus[index])
        soft_vcpu_request(p->vcpus[index], REQUEST_INTERRUPT);
    pthread_rwlock_unlock(&p->members);
}

void soft_monitor_wrote(struct engine_partition *p, const struct engine_vcpu *writer, uint64_t place, uint64_t size)
{
    atomic_thread_fence(memory_order_seq_cst);
    if (likely(!atomic_load(&p->monitors)))
        return;
    for (unsigned i = 0; i < SOFT_MAXIMUM_PROCESSORS; i++) {
        uint64_t line = atomic_load(&p->monitor_line[i]);
        const uint64_t first = line & ~(uint64_t)ARMED;

        if (line && (!writer || writer->index != i) && first < place + size && place < first + LINE &&
            atomic_compare_exchange_strong(&p->monitor_line[i], &line, 0))
            wake(p, i);
    }
}

void soft_monitor_remapped(struct engine_partition *p)
{
    if (likely(!atomic_load(&p->monitors)))
        return;
    for (unsigned i = 0; i < SOFT_MAXIMUM_PROCESSORS; i++)
        if (atomic_exchange(&p->monitor_line[i], 0))
            wake(p, i);
}
