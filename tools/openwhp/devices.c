/* The machine's devices on their buses; see machine.h. */
#include "machine.h"

#include <openwhp.h>

#include <string.h>

#include "problem.h"

enum {
    DISK_SLOT = 2,
    DISK_PORT = 0xC000, /* where the disk is when no firmware places it */
};

static void request_reset(void *context)
{
    struct machine *machine = context;
    power_stop(&machine->power, STOP_RESET);
}

static void shadow_changed(void *context)
{
    struct machine *machine = context;
    if (guest_map_update_shadow(&machine->map, &machine->devices.pci) != 0)
        power_fail(&machine->power, STOP_FAILURE, "%s", problem_text());
}

/* What a device has stored by its own pointer counts as dirty, and cached code of it is stale. */
static void memory_stored(void *context, uint64_t gpa, uint64_t size)
{
    struct machine *machine = context;
    OwhpMarkDirty(machine->partition, gpa, size);
}

static void serial_transmit(void *context, uint8_t byte)
{
    struct machine *machine = context;
    sink_write(&machine->serial_sink, &byte, 1);
}

static void serial_drained(void *context)
{
    struct machine *machine = context;
    if (machine->console_open)
        console_wake(&machine->console);
}

static void debug_transmit(void *context, uint8_t byte)
{
    struct machine *machine = context;
    sink_write(&machine->debug_sink, &byte, 1);
}

static int create_interrupt_controllers(struct machine *machine)
{
    struct devices *devices = &machine->devices;
    pic8259_init(&devices->pic, &machine->interrupts);
    ioapic_init(&devices->ioapic, 0, &machine->interrupts);
    devices->router = (struct irq_router){.pic = &devices->pic, .ioapic = &devices->ioapic};
    return pic8259_attach(&devices->pic, &machine->ports) != 0 ||
                   ioapic_attach(&devices->ioapic, &machine->mmio) != 0
               ? -1
               : 0;
}

static int create_clocks(struct machine *machine)
{
    struct devices *devices = &machine->devices;
    const struct cmos_setup setup = {
        .low_end = machine->memory.low_end,
        .high_size = machine->memory.size - machine->memory.low_end,
        .processors = machine->options->processors,
        .has_disk = machine->options->disk != NULL,
    };
    pit8254_init(&devices->pit, &machine->timers, &devices->router);
    rtc_cmos_init(&devices->rtc, &machine->timers, &devices->router, &setup);
    acpi_pm_init(&devices->pm, &machine->timers, &machine->power);
    return pit8254_attach(&devices->pit, &machine->ports) != 0 ||
                   rtc_cmos_attach(&devices->rtc, &machine->ports) != 0 ||
                   acpi_pm_attach(&devices->pm, &machine->ports) != 0
               ? -1
               : 0;
}

static int create_consoles(struct machine *machine)
{
    struct devices *devices = &machine->devices;
    serial16550_init(&devices->serial, &devices->router);
    devices->serial.transmit = serial_transmit;
    devices->serial.drained = serial_drained;
    devices->serial.context = machine;
    devices->debug_console = (struct debug_console){debug_transmit, machine};
    i8042_init(&devices->keyboard, &devices->router, request_reset, machine);
    vga_text_init(&devices->vga);
    if (serial16550_attach(&devices->serial, &machine->ports) != 0 ||
        i8042_attach(&devices->keyboard, &machine->ports) != 0 ||
        vga_text_attach(&devices->vga, &machine->ports, &machine->mmio) != 0 ||
        debug_exit_attach(&machine->power, &machine->ports) != 0)
        return -1;
    if (machine->options->debug_console.kind == OUTPUT_NONE)
        return 0;
    return debug_console_attach(&devices->debug_console, &machine->ports);
}

static int create_disk(struct machine *machine)
{
    struct devices *devices = &machine->devices;
    if (machine->options->disk == NULL)
        return 0;
    if (disk_image_open(&devices->image, machine->options->disk) != 0)
        return -1;
    virtio_blk_init(&devices->disk, &devices->image, &machine->memory, &devices->router);
    bool firmware = machine->options->bios != NULL;
    virtio_blk_plug(&devices->disk, &devices->pci, DISK_SLOT, firmware ? 0 : DISK_PORT);
    return 0;
}

static int create_pci(struct machine *machine, const struct acpi_tables *tables)
{
    struct devices *devices = &machine->devices;
    pci_init(&devices->pci, shadow_changed, request_reset, machine);
    fw_cfg_init(&devices->firmware, &machine->memory);
    if (pci_attach(&devices->pci, &machine->ports) != 0 || create_disk(machine) != 0)
        return -1;
    if (machine->options->bios == NULL) {
        pci_shadow_tables(&devices->pci);
        return 0;
    }
    return fw_cfg_attach(&devices->firmware, &machine->ports) != 0 ||
                   fw_cfg_fill(&devices->firmware, tables, machine->options->processors) != 0
               ? -1
               : 0;
}

int devices_create(struct machine *machine, const struct acpi_tables *tables)
{
    machine->devices.image.file = -1;
    machine->memory.stored = memory_stored;
    machine->memory.stored_context = machine;
    if (create_interrupt_controllers(machine) != 0 || create_clocks(machine) != 0 ||
        create_consoles(machine) != 0 || create_pci(machine, tables) != 0)
        return -1;
    return 0;
}

void devices_destroy(struct machine *machine)
{
    fw_cfg_fini(&machine->devices.firmware);
    disk_image_close(&machine->devices.image);
}
