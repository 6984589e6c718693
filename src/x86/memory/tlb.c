/*
 * The software TLB: filling it. The layout and the rules are in tlb.h; flushing is in tlb_space.c.
 */
#include "x86/memory/tlb.h"

#include "os/guarded.h"
#include "x86/code/code.h"
#include "x86/memory/walk.h"
#include "x86/system/control.h"

/* ---- the walk's memory: page tables through the physical cache ---- */

_Static_assert(PAGE_READ == 1u << ACCESS_READ && PAGE_WRITE == 1u << ACCESS_WRITE && PAGE_EXECUTE == 1u << ACCESS_EXECUTE,
               "rights are bits by kind of access");

uint8_t *tlb_physical_page(struct cpu *cpu, gpa_t gpa, enum access_type type)
{
    uint8_t *known = tlb_known_physical_page(cpu, gpa, type);
    const gpa_t page = gpa & PAGE_MASK;
    struct port_page found;

    if (likely(known))
        return known;
    if (!cpu->port->page || !cpu->port->page(cpu, page, type, &found))
        return NULL;
    cpu->tlb->physical[(gpa >> PAGE_SHIFT) % TLB_PHYSICAL_SIZE] =
        (struct tlb_physical){.page = page, .host = found.host, .rights = found.rights};
    return found.host;
}

static enum walk_status ask_port(struct cpu *cpu, const struct port_access *access)
{
    switch (cpu->port->access(cpu, access)) {
    case PORT_DONE:
        return WALK_OK;
    case PORT_FAULT:
        cpu->leave = LEAVE_FAULT;
        return WALK_TABLE_STOPPED;
    default:
        cpu->leave = LEAVE_EXIT;
        return WALK_TABLE_STOPPED;
    }
}

static enum walk_status load_entry(void *context, gpa_t gpa, unsigned size, uint64_t *value)
{
    struct cpu *cpu = context;
    uint8_t *host = tlb_physical_page(cpu, gpa, ACCESS_READ);

    *value = 0;
    if (likely(host)) {
        host += gpa & ~PAGE_MASK;
        if (size == 8 ? guarded_load64(host, value) : guarded_load32(host, (uint32_t *)value))
            return WALK_OK;
    }
    return ask_port(cpu, &(struct port_access){.gpa = gpa, .type = ACCESS_READ, .size = (uint8_t)size, .data = value});
}

static enum walk_status update_entry(void *context, gpa_t gpa, unsigned size, uint64_t old, uint64_t value, bool *done)
{
    struct cpu *cpu = context;
    uint8_t *host = tlb_physical_page(cpu, gpa, ACCESS_WRITE);
    uint32_t old32 = (uint32_t)old;

    if (likely(host)) {
        host += gpa & ~PAGE_MASK;
        if (size == 8 ? guarded_cas64(host, &old, value, done) : guarded_cas32(host, &old32, (uint32_t)value, done))
            return WALK_OK;
    }
    bool lost = false;
    const struct port_access access = {.gpa = gpa, .type = ACCESS_WRITE, .size = (uint8_t)size, .data = &value, .is_atomic = true,
                                       .lost = &lost, .expected = old};
    enum walk_status status = ask_port(cpu, &access);
    *done = !lost;
    return status;
}

/* ---- translation ---- */

static uint32_t walk_flags(enum access_type type, unsigned mode)
{
    static const uint8_t check_flags[] = {
        [ACCESS_READ] = WALK_READ, [ACCESS_WRITE] = WALK_WRITE, [ACCESS_EXECUTE] = WALK_EXECUTE};
    uint32_t flags = check_flags[type] | WALK_SET_BITS;

    if (mode == TLB_MODE_USER)
        flags |= WALK_USER;
    else if (mode == TLB_MODE_SUPERVISOR)
        flags |= WALK_ENFORCE_SMAP;
    else
        flags |= WALK_OVERRIDE_SMAP;
    return flags;
}

/* The processor's own walk, or the port's translation. False: cpu->leave is set. */
static bool translate(struct cpu *cpu, gva_t linear, enum access_type type, unsigned mode, struct walk_result *result)
{
    const struct walk_state state = {.cr0 = cpu->cr0, .cr3 = cpu->cr3, .cr4 = cpu->cr4, .efer = cpu->efer, .pdpte = cpu->pdpte,
                                     .pkru = cpu->pkru, .pkrs = (uint32_t)cpu->pkrs,
                                     .physical_bits = cpu->physical_bits, .ac = cpu->rflags & RFLAGS_AC,
                                     .no_1g_pages = !cpuid_has(&cpu->cpuid, FEATURE_PAGE1GB)};
    const struct walk_memory memory = {.context = cpu, .load = load_entry, .update = update_entry};

    if (unlikely(cpu->port->translate)) {
        *result = (struct walk_result){.page_size = PAGE_SIZE};
        enum port_result answer = cpu->port->translate(cpu, linear, type, mode == TLB_MODE_USER, &result->gpa);
        cpu->leave = answer == PORT_FAULT ? LEAVE_FAULT : LEAVE_EXIT;
        return answer == PORT_DONE;
    }
    switch (walk(&state, &memory, linear, walk_flags(type, mode), result)) {
    case WALK_OK:
        return true;
    case WALK_NOT_PRESENT:
    case WALK_PRIVILEGE:
    case WALK_RESERVED_BITS:
        return raise_page_fault(cpu, linear, result->fault_error);
    case WALK_NOT_CANONICAL:
        return raise_gp(cpu, 0);
    default:
        return false;
    }
}

static unsigned current_mode(const struct cpu *cpu)
{
    return cpu->read_key & 3;
}

/* What makes a global page valid, beside its tags. */
static uint64_t global_mark(const struct tlb *tlb)
{
    return TLB_PAGE_GLOBAL | (uint64_t)tlb->global_read << 3 | (uint64_t)tlb->global_write << 52;
}

static void enter(struct cpu *cpu, gva_t linear, unsigned mode, const struct walk_result *walked, const struct port_page *page)
{
    struct tlb_entry *e = &cpu->tlb_entries[tlb_slot(linear) & cpu->tlb_mask];
    gva_t base = linear & PAGE_MASK;
    bool writable = walked->writable && walked->dirty && (page->rights & PAGE_WRITE);
    bool code = page->rights & PAGE_CODE;
    uint64_t read_key = (cpu->read_key & ~(uint64_t)3) | mode, write_key = (cpu->write_key & ~(uint64_t)3) | mode;

    if (walked->page_size > PAGE_SIZE)
        tlb_note_large(cpu, linear, walked->page_size, walked->global);
    e->read_tag = page->rights & PAGE_READ ? base | read_key : TLB_NO_TAG;
    e->write_tag = writable ? base | write_key | (code ? TLB_CODE_MARK : 0) : TLB_NO_TAG;
    e->host_delta = (uint64_t)page->host - base;
    e->page = (walked->gpa & PAGE_MASK) | (e->page & TLB_PAGE_LISTED) | (walked->global ? global_mark(cpu->tlb) : 0);
    if (unlikely(cpu->cr4 & (CR4_PKE | CR4_PKS)) && walked->pkey)
        tlb_note_key(cpu, e, walked->pkey);
    tlb_count_fill(cpu);
}

/* ---- devices ---- */

static struct tlb_device *device_slot(struct cpu *cpu, gva_t linear)
{
    return &cpu->tlb->device[tlb_slot(linear) % TLB_DEVICE_SIZE];
}

static uint64_t device_tag(const struct cpu *cpu, gva_t linear, unsigned mode)
{
    return (linear & PAGE_MASK) | (cpu->read_key & ~(uint64_t)3) | mode;
}

static bool may_revive(const struct cpu *cpu, gva_t linear)
{
    return unlikely(cpu->tlb_entries[tlb_slot(linear) & cpu->tlb_mask].page & TLB_PAGE_GLOBAL);
}

static bool is_device(struct cpu *cpu, gva_t linear, enum access_type type, unsigned mode, gpa_t *gpa)
{
    const struct tlb_device *d = device_slot(cpu, linear);

    if (d->tag != device_tag(cpu, linear, mode) || type > ACCESS_WRITE || (type == ACCESS_WRITE && !(d->page & 1)))
        return false;
    *gpa = (d->page & PAGE_MASK) | (linear & ~PAGE_MASK);
    return true;
}

bool tlb_is_known_device(struct cpu *cpu, gva_t linear, enum access_type type)
{
    gpa_t gpa;

    return is_device(cpu, linear, type, current_mode(cpu), &gpa);
}

static void enter_device(struct cpu *cpu, gva_t linear, unsigned mode, const struct walk_result *walked)
{
    if (walked->page_size > PAGE_SIZE)
        tlb_note_large(cpu, linear, walked->page_size, walked->global);
    *device_slot(cpu, linear) = (struct tlb_device){
        .tag = device_tag(cpu, linear, mode), .page = (walked->gpa & PAGE_MASK) | (walked->writable && walked->dirty)};
}

/* The page table says, or a global page of another space. */
static noinline bool translate_slowly(struct cpu *cpu, gva_t linear, enum access_type type, unsigned mode, bool is_kept,
                                      struct tlb_target *target)
{
    struct walk_result walked;
    struct port_page page;
    unsigned privilege = mode == TLB_MODE_SLOW ? (cpu->cpl == 3             ? TLB_MODE_USER
                                                  : cpu->rflags & RFLAGS_AC ? TLB_MODE_NO_SMAP
                                                                            : TLB_MODE_SUPERVISOR)
                                               : mode;

    if (unlikely(cpu_is_64(cpu) && !cpu_is_canonical(cpu, linear)))
        return raise_gp(cpu, 0);
    *target = (struct tlb_target){.gpa = 0};
    if (is_kept && may_revive(cpu, linear) && tlb_revive(cpu, linear, type, mode)) {
        const struct tlb_entry *e = &cpu->tlb_entries[tlb_slot(linear) & cpu->tlb_mask];
        *target = (struct tlb_target){.gpa = (e->page & TLB_PAGE_ADDRESS) | (linear & ~PAGE_MASK),
                                      .host = (uint8_t *)(linear + e->host_delta),
                                      .is_code = type == ACCESS_WRITE && (e->write_tag & TLB_CODE_MARK)};
        return true;
    }
    if (unlikely(!translate(cpu, linear, type, privilege, &walked)))
        return false;
    target->gpa = walked.gpa;
    if (!cpu->port->page)
        return true;
    if (!cpu->port->page(cpu, walked.gpa & PAGE_MASK, type, &page)) {
        if (is_kept && !walked.pkey) /* keys are looked at when translating */
            enter_device(cpu, linear, mode, &walked);
        return true;
    }
    target->host = page.host + (linear & ~PAGE_MASK);
    if (code_pages_of(cpu, page.host))
        page.rights |= PAGE_CODE;
    target->is_code = page.rights & PAGE_CODE;
    if (is_kept)
        enter(cpu, linear, mode, &walked, &page);
    return true;
}

bool tlb_translate(struct cpu *cpu, gva_t linear, enum access_type type, unsigned mode, struct tlb_target *target)
{
    const bool is_kept = mode != TLB_MODE_SLOW && current_mode(cpu) != TLB_MODE_SLOW && !cpu->port->translate;
    struct port_page page;
    gpa_t gpa;

    if (is_kept && is_device(cpu, linear, type, mode, &gpa) && !cpu->port->page(cpu, gpa & PAGE_MASK, type, &page)) {
        *target = (struct tlb_target){.gpa = gpa};
        return true;
    }
    return translate_slowly(cpu, linear, type, mode, is_kept, target);
}

/* ---- instruction fetch ---- */

static unsigned fetch_mode(const struct cpu *cpu)
{
    return cpu->cpl == 3 ? TLB_MODE_USER : TLB_MODE_SUPERVISOR;
}

static struct tlb_fetch *fetch_slot(struct cpu *cpu, gva_t linear, uint64_t *tag)
{
    *tag = tlb_fetch_tag(cpu, linear);
    return &cpu->tlb->fetch[tlb_slot(linear) % TLB_FETCH_SIZE];
}

bool tlb_translate_fetch(struct cpu *cpu, gva_t linear, uint8_t **host, gpa_t *gpa_page)
{
    uint64_t tag;
    struct tlb_fetch *f = fetch_slot(cpu, linear, &tag);
    struct walk_result walked;
    struct port_page page;

    if (unlikely(f->tag != tag) && !((f->page & TLB_PAGE_GLOBAL) && tlb_revive_fetch(cpu, f, tag))) {
        if (cpu_is_64(cpu) && !cpu_is_canonical(cpu, linear))
            return raise_gp(cpu, 0);
        if (!translate(cpu, linear, ACCESS_EXECUTE, fetch_mode(cpu), &walked))
            return false;
        if (!cpu->port->page || !cpu->port->page(cpu, walked.gpa & PAGE_MASK, ACCESS_EXECUTE, &page)) {
            struct port_access access = {.gpa = walked.gpa, .gva = linear, .gva_valid = true, .type = ACCESS_EXECUTE, .size = 1};
            cpu->leave = cpu->port->access(cpu, &access) == PORT_FAULT ? LEAVE_FAULT : LEAVE_EXIT;
            return false;
        }
        if (walked.page_size > PAGE_SIZE)
            tlb_note_large(cpu, linear, walked.page_size, walked.global);
        *f = (struct tlb_fetch){
            .tag = tag, .host = page.host, .page = (walked.gpa & PAGE_MASK) | (walked.global ? global_mark(cpu->tlb) : 0)};
    }
    *host = f->host;
    *gpa_page = f->page & TLB_PAGE_ADDRESS;
    return true;
}
