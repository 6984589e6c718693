/*
 * The machine: a partition, its memory and processors, and the devices around them.
 *
 * Threads: one per processor (run_loop.h), one for timers, one that reads the terminal, and the caller of
 * machine_run(), which waits. Devices, buses and the guest map are touched under `lock` only.
 */
#ifndef OPENWHP_TOOL_MACHINE_H
#define OPENWHP_TOOL_MACHINE_H

#include <WinHvEmulation.h>
#include <WinHvPlatform.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "acpi.h"
#include "acpi_pm.h"
#include "boot.h"
#include "bus.h"
#include "console.h"
#include "debug_ports.h"
#include "disk_image.h"
#include "exit_count.h"
#include "fw_cfg.h"
#include "guest_map.h"
#include "guest_memory.h"
#include "i8042.h"
#include "ioapic.h"
#include "irq.h"
#include "options.h"
#include "pci.h"
#include "pic8259.h"
#include "pit8254.h"
#include "power.h"
#include "rtc_cmos.h"
#include "serial16550.h"
#include "timers.h"
#include "vga_text.h"
#include "virtio_blk.h"

struct machine;

struct processor {
    struct machine *machine;
    UINT32 index;
    bool created, running; /* the processor exists; its thread has been started */
    pthread_t thread;
    WHV_EMULATOR_HANDLE emulator;
    struct exit_counts exits; /* its own thread's */
    /* Processor 0 takes the 8259s' interrupts (interrupts.h); its own thread's. */
    bool window_armed;
};

struct devices {
    struct irq_router router;
    struct pic8259 pic;
    struct ioapic ioapic;
    struct pit8254 pit;
    struct rtc_cmos rtc;
    struct serial16550 serial;
    struct i8042 keyboard;
    struct pci_bus pci;
    struct virtio_blk disk;
    struct disk_image image;
    struct vga_text vga;
    struct acpi_pm pm;
    struct fw_cfg firmware;
    struct debug_console debug_console;
};

struct machine {
    const struct options *options;
    bool is_first; /* not one that a reset has made */
    pthread_mutex_t lock;
    struct power power;
    struct timers timers;
    struct guest_memory memory;
    struct rom rom;
    WHV_PARTITION_HANDLE partition;
    struct guest_map map;
    struct bus ports, mmio;
    struct devices devices;
    struct interrupt_sink interrupts;
    atomic_bool pic_asserted; /* the master 8259's output */
    struct processor *processors;
    unsigned processor_count; /* created ones */
    struct sink serial_sink, debug_sink;
    struct console console;
    bool console_open;
};

/* Builds the machine and loads what it boots; -1 with a problem(), and then only machine_destroy() is left. */
int machine_create(struct machine *machine, const struct options *options, bool is_first);

/*
 * Runs it until somebody stops it, or until a time of timers_host_clock() (0: none), and waits for its
 * threads; machine->power says why it has ended.
 */
int machine_run(struct machine *machine, uint64_t deadline);

void machine_destroy(struct machine *machine);

/* The machine's devices on their buses (devices.c). */
int devices_create(struct machine *machine, const struct acpi_tables *tables);
void devices_destroy(struct machine *machine);

#endif
