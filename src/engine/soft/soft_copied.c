/*
 * Memory of another process, which is reached by copying (mem/process_source.h).
 *
 * Loads and stores go through the port's access(), one system call each, so that both sides see each other's stores at once
 * and the other process's protections hold. There is never a host address, so nothing is cached in the TLB.
 *
 * Code is copied page by page for the decoder and the block cache, which want addresses. A copy is brought up to date when a
 * run begins (the other process may have changed it), when a host or another processor stored to it (PENDING_VERIFY_CODE),
 * and at this processor's own stores. Copies are known by the memory they are of: guest pages that are the same memory share
 * one. To the block cache the copy is the memory.
 */
#include "engine/soft/soft.h"

#include <stdlib.h>
#include <string.h>

#include "mem/process_source.h"
#include "x86/code/code.h"

enum { BUCKETS = 64, MOST_PAGES = 1024 };

struct copied_page {
    struct copied_page *next;
    const struct process_source *source;
    const uint8_t *address; /* over there */
    uint64_t place;         /* it is counted under */
    gpa_t page;             /* one of the guest pages that it is, as long as nothing is mapped otherwise: then all copies go */
    uint8_t bytes[PAGE_SIZE];
};

static struct copied_page **bucket(const struct copied_code *code, const uint8_t *address)
{
    return &code->buckets[((uintptr_t)address >> PAGE_SHIFT) % BUCKETS];
}

/* Of the guest page, which is in the view. */
static struct copied_page *find(const struct copied_code *code, const struct gpa_view *view, gpa_t page)
{
    const uint8_t *address = gpa_view_host(view, page);
    struct copied_page *p = code->buckets ? *bucket(code, address) : NULL;

    while (p && (p->address != address || p->source != view->source))
        p = p->next;
    return p;
}

static bool copy_page(struct engine_vcpu *vcpu, struct copied_page *p)
{
    return soft_find_view(vcpu, p->page) && vcpu->view.source && gpa_source_read(&vcpu->view, p->page, p->bytes, PAGE_SIZE);
}

static struct copied_page *add(struct engine_vcpu *vcpu, gpa_t page)
{
    struct copied_code *code = &vcpu->copied;
    const struct gpa_view *view = &vcpu->view;
    struct copied_page *p = malloc(sizeof(*p));

    if (p && !code->buckets)
        code->buckets = calloc(BUCKETS, sizeof(code->buckets[0]));
    if (!p || !code->buckets) {
        free(p);
        return NULL;
    }
    p->page = page;
    p->source = view->source;
    p->address = gpa_view_host(view, page);
    p->place = gpa_view_place(view, page);
    /* The copy counts as code as long as it exists, decoded or not: whoever stores to the memory must say so. No other
     * processor has a write tag that would have to go. Counted before the bytes are read. */
    soft_code_count(vcpu->partition, p->place);
    if (!copy_page(vcpu, p)) {
        soft_code_uncount(vcpu->partition, p->place);
        free(p);
        return NULL;
    }
    p->next = *bucket(code, p->address);
    *bucket(code, p->address) = p;
    /* Enough: begin anew at the next boundary, when nobody looks at the copies. */
    if (++code->count > MOST_PAGES)
        soft_vcpu_pend(vcpu, PENDING_DROP_MEMORY, REQUEST_FLUSH);
    return p;
}

bool soft_copied_code(struct engine_vcpu *vcpu, gpa_t page, struct port_page *out)
{
    struct copied_page *p = find(&vcpu->copied, &vcpu->view, page);

    if (!p)
        p = add(vcpu, page);
    if (!p)
        return false;
    *out = (struct port_page){.host = p->bytes, .rights = PAGE_EXECUTE};
    return true;
}

void soft_copied_forget(struct engine_vcpu *vcpu)
{
    struct copied_code *code = &vcpu->copied;

    for (size_t i = 0; code->buckets && i < BUCKETS; i++)
        while (code->buckets[i]) {
            struct copied_page *p = code->buckets[i];
            code->buckets[i] = p->next;
            soft_code_uncount(vcpu->partition, p->place);
            free(p);
        }
    free(code->buckets);
    *code = (struct copied_code){0};
}

/* A page that is not there any more: the fetch that needs it is to find out. */
void soft_copied_refresh(struct engine_vcpu *vcpu)
{
    struct copied_code *code = &vcpu->copied;
    bool all = true;

    for (size_t i = 0; code->buckets && i < BUCKETS; i++)
        for (struct copied_page *p = code->buckets[i]; p; p = p->next)
            all = all && copy_page(vcpu, p);
    if (all)
        return;
    cpu_drop_memory(vcpu->cpu, false);
    soft_copied_forget(vcpu);
}

/* ---- loads and stores ---- */

static void stored(struct engine_vcpu *vcpu, const struct port_access *access)
{
    const gpa_t page = access->gpa & PAGE_MASK;
    const uint64_t place = gpa_view_place(&vcpu->view, page);
    const size_t offset = access->gpa & ~PAGE_MASK;
    struct copied_page *p = find(&vcpu->copied, &vcpu->view, page);

    gpa_view_mark_dirty(&vcpu->view, access->gpa);
    if (p) {
        memcpy(p->bytes + offset, access->data, access->size);
        code_changed(vcpu->cpu, p->bytes, offset, access->size);
    }
    if (soft_is_code(vcpu->partition, place) || soft_monitor_is_page(vcpu->partition, place))
        soft_code_stored(vcpu, place + offset, access->size, p ? 1 : 0);
}

static bool store(struct engine_vcpu *vcpu, const struct port_access *access)
{
    const struct gpa_view *view = &vcpu->view;
    uint64_t value = 0;
    bool done = true;

    if (!access->lost) {
        if (!gpa_source_write(view, access->gpa, access->data, access->size))
            return false;
    } else {
        memcpy(&value, access->data, access->size);
        if (!gpa_source_exchange(view, access->gpa, access->size, access->expected, value, &done))
            return false;
        *access->lost = !done;
    }
    if (done)
        stored(vcpu, access);
    return true;
}

/* vcpu->view is that of the access. False: an exit. */
bool soft_copied_access(struct engine_vcpu *vcpu, const struct port_access *access)
{
    const struct gpa_view *view = &vcpu->view;

    if (!(view->flags & (1u << access->type)))
        return false;
    switch (access->type) {
    case ACCESS_READ:
        return gpa_source_read(view, access->gpa, access->data, access->size);
    case ACCESS_WRITE:
        return store(vcpu, access);
    default:
        return false;
    }
}

bool soft_copied_serves(struct engine_vcpu *vcpu, gpa_t page, enum access_type type)
{
    return soft_find_view(vcpu, page) && vcpu->view.source && (vcpu->view.flags & (1u << type)) &&
           gpa_source_probe(&vcpu->view, page, PAGE_SIZE, type == ACCESS_WRITE) == PAGE_SIZE;
}
