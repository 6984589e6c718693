/* /dev/kvm: opening it, what it must offer, and whether it is worth using. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "engine/kvm/kvm.h"
#include "os/kick.h"

int kvm_call(int fd, unsigned long request, void *argument)
{
    int result;

    do
        result = ioctl(fd, request, argument);
    while (result < 0 && errno == EINTR);
    return result;
}

static const struct {
    int number, least;
    const char *name;
} needed[] = {
    {KVM_CAP_USER_MEMORY, 1, "KVM_CAP_USER_MEMORY"},
    {KVM_CAP_SYNC_REGS, 7, "KVM_CAP_SYNC_REGS"},
    {KVM_CAP_IMMEDIATE_EXIT, 1, "KVM_CAP_IMMEDIATE_EXIT"},
    {KVM_CAP_X86_USER_SPACE_MSR, 1, "KVM_CAP_X86_USER_SPACE_MSR"},
    {KVM_CAP_X86_MSR_FILTER, 1, "KVM_CAP_X86_MSR_FILTER"},
    {KVM_CAP_READONLY_MEM, 1, "KVM_CAP_READONLY_MEM"},
    {KVM_CAP_XSAVE, 1, "KVM_CAP_XSAVE"},
    {KVM_CAP_XCRS, 1, "KVM_CAP_XCRS"},
    {KVM_CAP_DEBUGREGS, 1, "KVM_CAP_DEBUGREGS"},
    {KVM_CAP_VCPU_EVENTS, 1, "KVM_CAP_VCPU_EVENTS"},
};

static const char *missing_capability(int device)
{
    for (size_t i = 0; i < array_size(needed); i++)
        if (ioctl(device, KVM_CHECK_EXTENSION, needed[i].number) < needed[i].least)
            return needed[i].name;
    return NULL;
}

static void say_why_not_open(int error, char *why, size_t size)
{
    if (error == ENOENT)
        snprintf(why, size, "there is no /dev/kvm: the kernel has no KVM, or this machine no virtualization");
    else if (error == EACCES || error == EPERM)
        snprintf(why, size, "no permission to open /dev/kvm (members of the group kvm may)");
    else
        snprintf(why, size, "/dev/kvm cannot be opened: %s", strerror(error));
}

int kvm_open(char *why, size_t size)
{
    int device = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    const char *missing;

    if (device < 0) {
        int error = errno;
        say_why_not_open(error, why, size);
        errno = error;
        return -1;
    }
    if (ioctl(device, KVM_GET_API_VERSION, 0) != KVM_API_VERSION)
        snprintf(why, size, "/dev/kvm does not speak version %d of KVM's interface", KVM_API_VERSION);
    else if ((missing = missing_capability(device)))
        snprintf(why, size, "this KVM lacks %s", missing);
    else
        return device;
    close(device);
    errno = 0;
    return -1;
}

enum status kvm_open_status(void)
{
    return errno == EACCES || errno == EPERM ? STATUS_ACCESS_DENIED : STATUS_UNSUPPORTED_HYPERVISOR_CONFIG;
}

enum status kvm_usable(char *why, size_t size)
{
    int device = kvm_open(why, size);

    if (device < 0)
        return kvm_open_status();
    close(device);
    if (kick_possible())
        return STATUS_OK;
    snprintf(why, size, "the process has a handler for the signal SIGSTKFLT, which this engine needs");
    return STATUS_UNSUPPORTED_HYPERVISOR_CONFIG;
}

/* ---- speed ---- */

/*
 * mov ecx, 5000 / loop: dec ecx / jnz loop / hlt, in real mode: hardware needs some microseconds, under an emulated processor it
 * takes a tenth of a millisecond; KVM's own interpreter needs four. Other threads and other machines only make it longer: the
 * first try that is short enough decides.
 */
static const uint8_t probe_code[] = {0x66, 0xb9, 0x88, 0x13, 0, 0, 0x66, 0x49, 0x75, 0xfc, 0xf4};
enum { PROBE_LIMIT_US = 1000, PROBE_TRIES = 8 };

struct probe {
    int vm, vcpu;
    struct kvm_run *run;
    size_t run_size;
    uint8_t *page;
};

static bool probe_begin(struct probe *p, int device)
{
    struct kvm_userspace_memory_region region = {.memory_size = PAGE_SIZE};
    struct kvm_sregs sregs;
    int size = ioctl(device, KVM_GET_VCPU_MMAP_SIZE, 0);

    p->vm = kvm_call(device, KVM_CREATE_VM, NULL);
    p->vcpu = p->vm < 0 ? -1 : ioctl(p->vm, KVM_CREATE_VCPU, 0);
    p->page = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p->vcpu < 0 || size <= 0 || p->page == MAP_FAILED)
        return false;
    p->run_size = (size_t)size;
    p->run = mmap(NULL, p->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, p->vcpu, 0);
    memcpy(p->page, probe_code, sizeof(probe_code));
    region.userspace_addr = (uintptr_t)p->page;
    if (p->run == MAP_FAILED || kvm_call(p->vm, KVM_SET_USER_MEMORY_REGION, &region) || kvm_call(p->vcpu, KVM_GET_SREGS, &sregs))
        return false;
    sregs.cs.base = 0;
    sregs.cs.selector = 0;
    return !kvm_call(p->vcpu, KVM_SET_SREGS, &sregs);
}

static void probe_end(struct probe *p)
{
    if (p->run && p->run != MAP_FAILED)
        munmap(p->run, p->run_size);
    if (p->page && p->page != MAP_FAILED)
        munmap(p->page, PAGE_SIZE);
    if (p->vcpu >= 0)
        close(p->vcpu);
    if (p->vm >= 0)
        close(p->vm);
}

static int64_t microseconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

/* Microseconds of one try; -1: it does not run. */
static int64_t probe_run(const struct probe *p)
{
    struct kvm_regs regs = {.rip = 0, .rflags = 2};
    const int64_t start = microseconds();

    if (kvm_call(p->vcpu, KVM_SET_REGS, &regs) || kvm_call(p->vcpu, KVM_RUN, NULL) || p->run->exit_reason != KVM_EXIT_HLT)
        return -1;
    return microseconds() - start;
}

/* Of the best try. */
static int64_t probe(int device)
{
    struct probe p = {.vm = -1, .vcpu = -1};
    int64_t best = -1;

    if (probe_begin(&p, device))
        for (unsigned i = 0; i < PROBE_TRIES && (best < 0 || best > PROBE_LIMIT_US); i++) {
            const int64_t taken = probe_run(&p);
            if (taken >= 0 && (best < 0 || taken < best))
                best = taken;
        }
    probe_end(&p);
    return best;
}

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int64_t measured = -1; /* not yet: what failed for lack of something may succeed the next time */

static int64_t measure(void)
{
    char why[128];
    int device = kvm_open(why, sizeof(why));
    int64_t taken = device < 0 ? -1 : probe(device);

    if (device >= 0)
        close(device);
    return taken;
}

bool kvm_is_fast(char *why, size_t size)
{
    pthread_mutex_lock(&lock);
    measured = measured < 0 ? measure() : measured;
    const int64_t taken = measured;
    pthread_mutex_unlock(&lock);
    const bool fast = taken >= 0 && taken <= PROBE_LIMIT_US;

    if (taken < 0)
        snprintf(why, size, "KVM does not run a small guest");
    else
        snprintf(why, size, "KVM %s: 10000 instructions took %lld us",
                 fast ? "runs guests on hardware" : "interprets guests here", (long long)taken);
    return fast;
}
