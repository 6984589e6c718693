/*
 * Safe points.
 *
 * A processor is `inside` while it may hold host addresses of guest memory: from soft_enter to soft_leave. Whoever changes
 * what those addresses mean (map, unmap, dirty harvest, a new code page, an access that must exclude the others) makes the
 * running processors come out:
 *
 *      changer                              processor
 *      holds++                              runs blocks, polls `request` at their ends
 *      request |= HOLD  -- each -->         sees it, inside = false, signals, waits until holds == 0
 *      wait until none is inside
 *      change; queue PENDING_DROP_*
 *      holds--, signal  ------------>       inside = true, looks at holds again, does what is pending
 *
 * A processor that enters either sees the hold, or is seen inside: each side's store comes before its load. The barrier
 * between them is the changer's to make for everybody (os/read_section.h), for an exit passes here twice. Queued work is done
 * after entering and before the first guest instruction. Sleeping and idle processors are outside all along and cost the changer
 * one load each.
 */
#include "engine/soft/soft.h"
#include "os/cancel.h"
#include "os/read_section.h"
#include "x86/code/code.h"

static void signal_changed(struct engine_partition *p)
{
    pthread_mutex_lock(&p->lock);
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->lock);
}

void soft_leave(struct engine_vcpu *vcpu)
{
    atomic_store_explicit(&vcpu->inside, false, memory_order_release);
    read_side_barrier();
    if (unlikely(atomic_load(&vcpu->partition->holds)))
        signal_changed(vcpu->partition);
}

void soft_enter(struct engine_vcpu *vcpu)
{
    struct engine_partition *p = vcpu->partition;

    for (;;) {
        atomic_store_explicit(&vcpu->inside, true, memory_order_relaxed);
        read_side_barrier();
        if (likely(!atomic_load(&p->holds)))
            return;
        soft_leave(vcpu);
        pthread_mutex_lock(&p->lock);
        atomic_fetch_add(&p->waiting, 1);
        while (atomic_load(&p->holds))
            cond_wait(&p->changed, &p->lock);
        atomic_fetch_sub(&p->waiting, 1);
        pthread_mutex_unlock(&p->lock);
    }
}

/* Wait until no processor but `except` is inside. The holder has raised `holds`. */
static void wait_until_outside(struct engine_partition *p, const struct engine_vcpu *except)
{
    change_side_barrier();
    pthread_rwlock_rdlock(&p->members);
    uint64_t set = p->members_set;
    for (struct engine_vcpu *v; (v = soft_next_member(p, &set));) {
        if (v == except || !atomic_load(&v->inside))
            continue;
        atomic_fetch_or(&v->cpu->request, REQUEST_HOLD);
        soft_vcpu_interrupt(v);
        for (unsigned spin = 0; spin < 2000 && atomic_load(&v->inside); spin++)
            __builtin_ia32_pause();
        pthread_mutex_lock(&p->lock);
        while (atomic_load(&v->inside))
            cond_wait(&p->changed, &p->lock);
        pthread_mutex_unlock(&p->lock);
    }
    pthread_rwlock_unlock(&p->members);
}

/* Who waits has counted itself before it looked at holds: either it sees 0, or we see it. */
static void let_go(struct engine_partition *p)
{
    if (atomic_fetch_sub(&p->holds, 1) == 1 && atomic_load(&p->waiting))
        signal_changed(p);
}

void soft_hold(void *context)
{
    struct engine_partition *p = context;

    atomic_fetch_add(&p->holds, 1);
    wait_until_outside(p, NULL);
}

void soft_release(void *context, const struct gpa_change *change)
{
    struct engine_partition *p = context;

    if (change) {
        uint32_t what = change->kind == GPA_CHANGE_DIRTY_CLEAR ? PENDING_DROP_WRITES : PENDING_DROP_MEMORY;
        soft_pend_all(p, NULL, what, REQUEST_FLUSH);
        if (change->kind != GPA_CHANGE_DIRTY_CLEAR)
            soft_monitor_remapped(p);
        if (p->executor)
            p->executor->memory_changed(p, change);
    }
    let_go(p);
}

void soft_do_pending_memory(struct engine_vcpu *vcpu, uint32_t pending)
{
    if (pending & PENDING_DROP_MEMORY) {
        vcpu->view = vcpu->other_view = (struct gpa_view){0};
        cpu_drop_memory(vcpu->cpu, false);
        soft_copied_forget(vcpu);
    } else if (pending & PENDING_DROP_WRITES) {
        cpu_drop_memory(vcpu->cpu, true);
    }
    if (pending & PENDING_VERIFY_CODE) {
        soft_copied_refresh(vcpu);
        cpu_verify_code(vcpu->cpu);
    }
}

/* Between instructions we are at a safe point, if only we say so. */
void soft_write_tags_begin(struct engine_vcpu *vcpu)
{
    soft_leave(vcpu);
    atomic_fetch_add(&vcpu->partition->holds, 1);
}

void soft_write_tags_end(struct engine_vcpu *vcpu)
{
    struct engine_partition *p = vcpu->partition;

    soft_pend_all(p, vcpu, PENDING_DROP_WRITES, REQUEST_FLUSH);
    wait_until_outside(p, vcpu);
    let_go(p);
    soft_enter(vcpu);
    soft_memory_work(vcpu);
}

/* ---- exclusive access ---- */

bool soft_exclusive_begin(struct cpu *cpu)
{
    struct engine_vcpu *vcpu = vcpu_of(cpu);
    struct engine_partition *p = vcpu->partition;

    if (p->config->processor_count == 1)
        return true;
    if (pthread_mutex_trylock(&p->exclusive)) {
        /* Another processor is at it and waits for us: come to a safe point and try again. */
        atomic_fetch_or(&cpu->request, REQUEST_FLUSH);
        return false;
    }
    atomic_fetch_add(&p->holds, 1);
    wait_until_outside(p, vcpu);
    return true;
}

void soft_exclusive_end(struct cpu *cpu)
{
    struct engine_partition *p = vcpu_of(cpu)->partition;

    if (p->config->processor_count == 1)
        return;
    let_go(p);
    pthread_mutex_unlock(&p->exclusive);
}
