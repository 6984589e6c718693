/*
 * The model's second process: it sleeps, and has memory that is mapped with WHvMapGpaRange2. One part is private, and is copied; the
 * rest is a memfd that only it maps, and is shared. It lives as long as this process.
 */
#include "memory_model_state.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <unistd.h>

static struct {
    pid_t process;
    UINT8 *memory; /* over there */
    HANDLE handle; /* of this run */
} far;

static void start(void)
{
    const size_t copied = FAR_COPIED * PAGE, shared = FAR_SHARED * PAGE;
    int fd = memfd_create("far", MFD_CLOEXEC);

    if (fd < 0 || ftruncate(fd, (off_t)shared) != 0)
        model_wrong("memfd", 1, 0);
    far.memory = mmap(NULL, copied + shared, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mmap(far.memory + copied, shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
    close(fd);
    far.process = fork();
    if (far.process < 0)
        model_wrong("fork", 1, 0);
    if (far.process == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (;;)
            pause();
    }
    munmap(far.memory, copied + shared);
}

static void move(bool there, void *bytes)
{
    const struct iovec here = {bytes, FAR * PAGE}, over = {far.memory, FAR * PAGE};

    if ((there ? process_vm_writev : process_vm_readv)(far.process, &here, 1, &over, 1, 0) != FAR * PAGE)
        model_wrong("the other process's memory", 1, 0);
}

void model_far_begin(void)
{
    static UINT8 zeros[FAR * PAGE];

    if (!far.process)
        start();
    move(true, zeros);
    model_expect("open process", OwhpOpenProcess((UINT32)far.process, &far.handle), S_OK);
}

void model_far_end(void)
{
    model_expect("close process", OwhpCloseProcess(far.handle), S_OK);
}

void model_far_read(UINT8 bytes[FAR * PAGE])
{
    move(false, bytes);
}

HANDLE model_far_handle(void)
{
    return far.handle;
}

UINT32 model_far_process(void)
{
    return (UINT32)far.process;
}

UINT8 *model_far_at(int page)
{
    return far.memory + (size_t)page * PAGE;
}
