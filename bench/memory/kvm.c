/* The same by the host's KVM: memory slots, KVM_GET_DIRTY_LOG, KVM_TRANSLATE. */
#include "memory.h"

#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tables.h"

struct machine {
    int kvm, vm, vcpu;
    uint8_t *host;
    uint64_t *bitmap;
};

static bool begin(struct machine *m)
{
    *m = (struct machine){.kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC), .vm = -1, .vcpu = -1};
    m->vm = m->kvm < 0 ? -1 : ioctl(m->kvm, KVM_CREATE_VM, 0);
    m->vcpu = m->vm < 0 ? -1 : ioctl(m->vm, KVM_CREATE_VCPU, 0);
    return m->vcpu >= 0;
}

static void end(struct machine *m)
{
    const int all[] = {m->vcpu, m->vm, m->kvm};

    for (int i = 0; i < 3; i++)
        if (all[i] >= 0)
            close(all[i]);
}

static bool set_slot(const struct machine *m, uint32_t slot, uint64_t gpa, uint64_t size, uint32_t flags)
{
    struct kvm_userspace_memory_region region = {slot, flags, gpa, size, (uintptr_t)m->host};

    return ioctl(m->vm, KVM_SET_USER_MEMORY_REGION, &region) == 0;
}

static void slot_on_off(void *context, uint64_t count)
{
    const struct machine *m = context;

    for (uint64_t i = 0; i < count; i++) {
        (void)set_slot(m, 30000, (uint64_t)1 << 38, PAGE, 0);
        (void)set_slot(m, 30000, (uint64_t)1 << 38, 0, 0);
    }
}

void bench_map_kvm(void)
{
    static const uint32_t counts[] = {1, 100, 1000, 10000};
    struct machine m;
    uint32_t slots = 0;
    char name[100];

    heading("KVM: memory slots (ns to set or remove one; the most there can be are 32764)");
    if (!begin(&m)) {
        skipped("KVM", "/dev/kvm cannot be used");
        end(&m);
        return;
    }
    m.host = reserve(PAGE);
    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
        while (slots < counts[i] && set_slot(&m, slots, (uint64_t)slots * 2 * PAGE, PAGE, 0))
            slots++;
        if (slots < counts[i])
            break;
        snprintf(name, sizeof(name), "set, remove a slot beside %u", slots);
        row(name, best_ns(slot_on_off, &m) / 2);
    }
    munmap(m.host, PAGE);
    end(&m);
}

static void get_log(void *context, uint64_t count)
{
    const struct machine *m = context;
    struct kvm_dirty_log log = {.slot = 0, .dirty_bitmap = m->bitmap};

    for (uint64_t i = 0; i < count; i++)
        if (ioctl(m->vm, KVM_GET_DIRTY_LOG, &log) < 0)
            return;
}

void bench_dirty_kvm(void)
{
    struct machine m;

    if (!begin(&m)) {
        skipped("KVM_GET_DIRTY_LOG", "/dev/kvm cannot be used");
        end(&m);
        return;
    }
    m.host = reserve(GIB);
    m.bitmap = (uint64_t *)(void *)reserve(GIB / PAGE / 8);
    if (set_slot(&m, 0, 0, GIB, KVM_MEM_LOG_DIRTY_PAGES))
        row("KVM_GET_DIRTY_LOG, 1 GiB", best_ns(get_log, &m));
    else
        skipped("KVM_GET_DIRTY_LOG", "the slot cannot be set");
    munmap(m.bitmap, GIB / PAGE / 8);
    munmap(m.host, GIB);
    end(&m);
}

static void translate(void *context, uint64_t count)
{
    const struct machine *m = context;

    for (uint64_t i = 0; i < count; i++) {
        struct kvm_translation t = {.linear_address = i * 0x3123 % RAM_SIZE};
        if (ioctl(m->vcpu, KVM_TRANSLATE, &t) < 0 || !t.valid)
            return;
    }
}

static bool set_long_mode(const struct machine *m)
{
    struct kvm_sregs s;

    if (ioctl(m->vcpu, KVM_GET_SREGS, &s) < 0)
        return false;
    s.cr0 = 0x80010011;
    s.cr3 = TABLES;
    s.cr4 = 0x20;
    s.efer = 0xd00;
    s.cs.l = 1;
    s.cs.db = 0;
    return ioctl(m->vcpu, KVM_SET_SREGS, &s) == 0;
}

void bench_translate_kvm(void)
{
    struct machine m;

    if (!begin(&m)) {
        skipped("KVM_TRANSLATE", "/dev/kvm cannot be used");
        end(&m);
        return;
    }
    m.host = reserve(RAM_SIZE);
    fill_tables(m.host);
    if (set_slot(&m, 0, 0, RAM_SIZE, 0) && set_long_mode(&m))
        row("KVM_TRANSLATE", best_ns(translate, &m));
    else
        skipped("KVM_TRANSLATE", "the processor cannot be set up");
    munmap(m.host, RAM_SIZE);
    end(&m);
}
