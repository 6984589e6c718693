/* The exit benchmarks on Unicorn: a callback without leaving, and one stop per access as a monitor's exit would be. */
#include <stdio.h>
#include <stdlib.h>
#include <unicorn/unicorn.h>

#include "exits.h"

static uint32_t device_register;
static unsigned left;
static bool stop_each;
static uc_engine *uc;

static void must(uc_err error, const char *what)
{
    if (error == UC_ERR_OK)
        return;
    fprintf(stderr, "unicorn: %s: %s\n", what, uc_strerror(error));
    exit(1);
}

static void accessed(void)
{
    if (stop_each || --left == 0)
        must(uc_emu_stop(uc), "stop");
}

static uint64_t on_read(uc_engine *engine, uint64_t offset, unsigned size, void *data)
{
    (void)engine, (void)offset, (void)size, (void)data;
    accessed();
    return ++device_register;
}

static void on_write(uc_engine *engine, uint64_t offset, unsigned size, uint64_t value, void *data)
{
    (void)engine, (void)offset, (void)size, (void)data;
    device_register = (uint32_t)value;
    accessed();
}

/* Unicorn's guest runs without our page tables (its own 64-bit mode is flat): the device is at its linear address. */
static double run(const struct bench *bench, unsigned count, bool each)
{
    static uint8_t memory[MEMORY_SIZE] __attribute__((aligned(4096)));
    uint64_t rbx = DEVICE_GVA, rip = CODE;
    double ns;

    guest_fill(memory, bench->loop);
    must(uc_open(UC_ARCH_X86, UC_MODE_64, &uc), "open");
    must(uc_mem_map_ptr(uc, 0, MEMORY_SIZE, UC_PROT_ALL, memory), "map");
    must(uc_mmio_map(uc, DEVICE_GVA, 4096, on_read, NULL, on_write, NULL), "device");
    must(uc_reg_write(uc, UC_X86_REG_RBX, &rbx), "registers");
    stop_each = each;
    left = count;
    ns = now_ns();
    for (unsigned i = 0; i < (each ? count : 1); i++) {
        must(uc_emu_start(uc, rip, ~0ull, 0, 0), "run");
        must(uc_reg_read(uc, UC_X86_REG_RIP, &rip), "registers");
    }
    ns = now_ns() - ns;
    must(uc_close(uc), "close");
    return ns;
}

static double run_callback(const struct bench *bench, unsigned count) { return run(bench, count, false); }
static double run_exits(const struct bench *bench, unsigned count) { return run(bench, count, true); }

const struct bench unicorn_benches[] = {
    {"unicorn load, callback inside", LOOP_LOAD, run_callback}, {"unicorn store, callback inside", LOOP_STORE, run_callback},
    {"unicorn load, one exit each", LOOP_LOAD, run_exits},      {"unicorn store, one exit each", LOOP_STORE, run_exits},
    {0},
};
