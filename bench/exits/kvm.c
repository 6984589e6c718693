/* The exit benchmarks on the host's KVM, by its own interface: the exit and the entry, nothing around them. */
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "exits.h"

struct machine {
    int kvm, vm, vcpu;
    struct kvm_run *run;
    size_t run_size;
    uint8_t *memory;
};

static struct kvm_segment segment(uint16_t selector, uint8_t type, bool is_code)
{
    return (struct kvm_segment){.limit = 0xffffffff, .selector = selector, .type = type, .present = 1, .s = 1, .g = 1,
                                .l = is_code, .db = !is_code};
}

static bool set_registers(struct machine *m)
{
    struct kvm_sregs s;
    struct kvm_regs r = {.rip = CODE, .rflags = 2, .rbx = DEVICE_GVA, .rdx = PORT, .rax = 0x12345678};

    if (ioctl(m->vcpu, KVM_GET_SREGS, &s) < 0)
        return false;
    s.cs = segment(8, 11, true);
    s.ds = s.es = s.ss = s.fs = s.gs = segment(16, 3, false);
    s.cr0 = 0x80050033;
    s.cr3 = TABLES;
    s.cr4 = 0x20;
    s.efer = 0x500;
    return ioctl(m->vcpu, KVM_SET_SREGS, &s) == 0 && ioctl(m->vcpu, KVM_SET_REGS, &r) == 0;
}

static bool begin(struct machine *m, enum guest_loop loop)
{
    *m = (struct machine){.kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC), .vm = -1, .vcpu = -1};
    m->vm = m->kvm < 0 ? -1 : ioctl(m->kvm, KVM_CREATE_VM, 0);
    m->vcpu = m->vm < 0 ? -1 : ioctl(m->vm, KVM_CREATE_VCPU, 0);
    if (m->vcpu < 0)
        return false;
    m->run_size = (size_t)ioctl(m->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    m->run = mmap(NULL, m->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, m->vcpu, 0);
    m->memory = mmap(NULL, MEMORY_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (m->run == MAP_FAILED || m->memory == MAP_FAILED)
        return false;
    guest_fill(m->memory, loop);
    struct kvm_userspace_memory_region region = {.memory_size = MEMORY_SIZE, .userspace_addr = (uintptr_t)m->memory};
    return ioctl(m->vm, KVM_SET_USER_MEMORY_REGION, &region) == 0 && set_registers(m);
}

static void end(struct machine *m)
{
    if (m->run && m->run != MAP_FAILED)
        munmap(m->run, m->run_size);
    if (m->memory && m->memory != MAP_FAILED)
        munmap(m->memory, MEMORY_SIZE);
    close(m->vcpu);
    close(m->vm);
    close(m->kvm);
}

static double run(const struct bench *bench, unsigned count)
{
    uint32_t reason = bench->loop == LOOP_HALT ? KVM_EXIT_HLT : bench->loop >= LOOP_IN ? KVM_EXIT_IO : KVM_EXIT_MMIO, value = 0;
    struct machine m;
    double ns = -1;

    if (begin(&m, bench->loop)) {
        ns = now_ns();
        for (unsigned i = 0; i < count; i++) {
            if (ioctl(m.vcpu, KVM_RUN, 0) < 0 || m.run->exit_reason != reason) {
                fprintf(stderr, "%s: exit %u\n", bench->name, m.run->exit_reason);
                exit(1);
            }
            value++;
            if (bench->loop == LOOP_LOAD)
                memcpy(m.run->mmio.data, &value, 4);
            else if (bench->loop == LOOP_IN)
                memcpy((uint8_t *)m.run + m.run->io.data_offset, &value, 4);
        }
        ns = now_ns() - ns;
    } else {
        static bool said;
        if (!said)
            fprintf(stderr, "SKIPPED: KVM cannot be used here\n");
        said = true;
    }
    end(&m);
    return ns;
}

const struct bench kvm_benches[] = {
    {"kvm load", LOOP_LOAD, run}, {"kvm store", LOOP_STORE, run}, {"kvm in", LOOP_IN, run}, {"kvm out", LOOP_OUT, run},
    {"kvm hlt", LOOP_HALT, run}, {0},
};
