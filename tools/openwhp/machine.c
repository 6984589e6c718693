/* The machine; see machine.h. */
#include "machine.h"

#include <openwhp.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "boot_registers.h"
#include "guest_io.h"
#include "interrupts.h"
#include "problem.h"
#include "run_loop.h"

/* Where guests without firmware find the root pointer, and the tables behind it. */
#define ACPI_RSDP_GPA   UINT64_C(0xE0000)
#define ACPI_TABLES_GPA (ACPI_RSDP_GPA + 64)

static int partition_problem(const char *what, const char *advice)
{
    return problem("cannot %s (%s); %s", what, OwhpGetLastErrorText(), advice);
}

static int set_property(struct machine *machine, WHV_PARTITION_PROPERTY_CODE code, UINT32 value)
{
    return SUCCEEDED(WHvSetPartitionProperty(machine->partition, code, &value, sizeof value)) ? 0 : -1;
}

static int set_engine(struct machine *machine)
{
    const char *name = machine->options->engine;
    if (name == NULL)
        return 0;
    OWHP_ENGINE engine = strcmp(name, "soft") == 0  ? OwhpEngineSoft
                         : strcmp(name, "kvm") == 0 ? OwhpEngineKvm
                                                    : OwhpEngineAuto;
    char reason[200];
    if (FAILED(OwhpQueryEngine(engine, reason, sizeof reason)))
        return problem("engine %s cannot be used (%s); give another --engine, see openwhp info", name, reason);
    if (engine == OwhpEngineAuto)
        fprintf(stderr, "openwhp: engine %s\n", reason);
    if (set_property(machine, OwhpPartitionPropertyCodeEngine, (UINT32)engine) != 0)
        return partition_problem("choose the engine", "see openwhp info");
    return 0;
}

static int create_partition(struct machine *machine)
{
    if (FAILED(WHvCreatePartition(&machine->partition))) {
        machine->partition = NULL;
        return partition_problem("create a partition", "see openwhp info");
    }
    if (set_engine(machine) != 0)
        return -1;
    if (set_property(machine, WHvPartitionPropertyCodeProcessorCount, machine->options->processors) != 0)
        return partition_problem("give the machine its processors", "give --cpus a smaller number");
    if (set_property(machine, WHvPartitionPropertyCodeLocalApicEmulationMode,
                     WHvX64LocalApicEmulationModeXApic) != 0)
        return partition_problem("emulate the local APICs", "see openwhp info");
    if (FAILED(WHvSetupPartition(machine->partition)))
        return partition_problem("set up the partition", "see openwhp info");
    return 0;
}

static int create_processors(struct machine *machine)
{
    unsigned count = machine->options->processors;
    for (unsigned i = 0; i < count; i++) {
        struct processor *processor = &machine->processors[i];
        if (FAILED(WHvCreateVirtualProcessor(machine->partition, i, 0)))
            return problem("cannot create processor %u (%s); give --cpus a smaller number", i,
                           OwhpGetLastErrorText());
        processor->created = true;
        machine->processor_count = i + 1;
        if (guest_io_create(processor) != 0)
            return -1;
    }
    return 0;
}

/* Guests without firmware find the tables where their kernel looks; all RAM is still plain memory to us. */
static void place_tables(struct machine *machine, struct acpi_tables *tables)
{
    acpi_place(tables, ACPI_TABLES_GPA);
    memcpy(machine->memory.host + ACPI_RSDP_GPA, tables->rsdp, sizeof tables->rsdp);
    memcpy(machine->memory.host + ACPI_TABLES_GPA, tables->bytes, tables->size);
}

static int load(struct machine *machine, struct boot_state *state)
{
    const struct options *options = machine->options;
    if (options->bios != NULL)
        return boot_bios(state, &machine->rom, options);
    if (options->flat.path != NULL)
        return boot_flat(state, &machine->memory, options);
    return boot_kernel(state, &machine->memory, options, ACPI_RSDP_GPA);
}

/* A machine after a reset goes on in the files that the first one began. */
static int open_sink(struct sink *sink, const struct output_option *option, const char *what, bool is_first)
{
    if (option->kind == OUTPUT_STDIO)
        sink->file = STDOUT_FILENO;
    if (option->kind != OUTPUT_FILE)
        return 0;
    sink->file = open(option->path, O_WRONLY | O_CREAT | (is_first ? O_TRUNC : O_APPEND) | O_CLOEXEC, 0666);
    sink->owned = true;
    if (sink->file < 0)
        return problem("cannot write %s (%s); give %s another file", option->path, strerror(errno), what);
    return 0;
}

static int open_sinks(struct machine *machine)
{
    machine->serial_sink = (struct sink){.file = -1, .power = &machine->power};
    machine->debug_sink = machine->serial_sink;
    if (open_sink(&machine->serial_sink, &machine->options->serial, "--serial", machine->is_first) != 0)
        return -1;
    return open_sink(&machine->debug_sink, &machine->options->debug_console, "--debugcon", machine->is_first);
}

static void close_sink(struct sink *sink)
{
    if (sink->owned && sink->file >= 0)
        close(sink->file);
    sink->file = -1;
}

static void cancel_processors(void *context) { run_loop_cancel_all(context); }

static int init_processors(struct machine *machine)
{
    machine->processors = calloc(machine->options->processors, sizeof *machine->processors);
    if (machine->processors == NULL)
        return problem("not enough memory for %u processors; give --cpus a smaller number",
                       machine->options->processors);
    for (unsigned i = 0; i < machine->options->processors; i++) {
        machine->processors[i].machine = machine;
        machine->processors[i].index = i;
    }
    return 0;
}

/* Images first: what the user gave wrong is told before anything is built. */
static int build(struct machine *machine, struct acpi_tables *tables)
{
    const struct acpi_setup setup = {.processors = machine->options->processors};
    struct boot_state state;
    if (open_sinks(machine) != 0 || guest_memory_create(&machine->memory, machine->options->memory) != 0 ||
        load(machine, &state) != 0 || acpi_build(tables, &setup) != 0)
        return -1;
    if (machine->options->bios == NULL)
        place_tables(machine, tables);
    if (init_processors(machine) != 0 || devices_create(machine, tables) != 0 ||
        create_partition(machine) != 0)
        return -1;
    if (guest_map_create(&machine->map, machine->partition, &machine->memory, &machine->rom,
                         machine->options->report_dirty) != 0 ||
        guest_map_update_shadow(&machine->map, &machine->devices.pci) != 0)
        return -1;
    return create_processors(machine) != 0 || boot_registers_write(machine->partition, &state) != 0 ? -1 : 0;
}

int machine_create(struct machine *machine, const struct options *options, bool is_first)
{
    memset(machine, 0, sizeof *machine);
    machine->options = options;
    machine->is_first = is_first;
    machine->devices.image.file = -1;
    pthread_mutex_init(&machine->lock, NULL);
    power_init(&machine->power);
    machine->power.cancel = cancel_processors;
    machine->power.context = machine;
    timers_init(&machine->timers, &machine->lock);
    interrupts_init(machine);
    struct acpi_tables *tables = malloc(sizeof *tables);
    if (tables == NULL)
        return problem("not enough memory for the ACPI tables; end other programs");
    int result = build(machine, tables);
    free(tables);
    return result;
}

static unsigned console_room(void *context)
{
    struct machine *machine = context;
    pthread_mutex_lock(&machine->lock);
    unsigned room = serial16550_room(&machine->devices.serial);
    pthread_mutex_unlock(&machine->lock);
    return room;
}

static bool console_input(void *context, const uint8_t *bytes, size_t count)
{
    struct machine *machine = context;
    if (pthread_mutex_trylock(&machine->lock) != 0)
        return false;
    serial16550_receive(&machine->devices.serial, bytes, count);
    pthread_mutex_unlock(&machine->lock);
    return true;
}

static int open_console(struct machine *machine)
{
    if (machine->options->serial.kind != OUTPUT_STDIO)
        return 0;
    machine->console = (struct console){
        .power = &machine->power, .room = console_room, .input = console_input, .context = machine};
    if (console_open(&machine->console) != 0)
        return -1;
    machine->console_open = true;
    return 0;
}

static int start_processors(struct machine *machine)
{
    int result = 0;
    pthread_mutex_lock(&machine->lock);
    for (unsigned i = 0; i < machine->processor_count && result == 0; i++)
        result = run_loop_start(&machine->processors[i]);
    pthread_mutex_unlock(&machine->lock);
    return result;
}

static void stop_threads(struct machine *machine)
{
    power_stop(&machine->power, STOP_FAILURE); /* nothing happens when it has been stopped before */
    timers_stop(&machine->timers);
    for (unsigned i = 0; i < machine->processor_count; i++)
        run_loop_join(&machine->processors[i]);
    if (machine->console_open)
        console_close(&machine->console);
    machine->console_open = false;
}

int machine_run(struct machine *machine, uint64_t deadline)
{
    int result = open_console(machine);
    if (result == 0)
        result = timers_start(&machine->timers);
    if (result == 0)
        result = start_processors(machine);
    if (result == 0)
        power_wait(&machine->power, deadline);
    stop_threads(machine);
    if (result == 0)
        guest_map_harvest(&machine->map);
    return result;
}

void machine_destroy(struct machine *machine)
{
    for (unsigned i = 0; machine->processors != NULL && i < machine->options->processors; i++) {
        guest_io_destroy(&machine->processors[i]);
        if (machine->processors[i].created)
            WHvDeleteVirtualProcessor(machine->partition, i);
    }
    if (machine->partition != NULL)
        WHvDeletePartition(machine->partition);
    guest_map_destroy(&machine->map);
    devices_destroy(machine);
    free(machine->processors);
    rom_release(&machine->rom);
    guest_memory_destroy(&machine->memory);
    close_sink(&machine->serial_sink);
    close_sink(&machine->debug_sink);
    timers_fini(&machine->timers);
    power_fini(&machine->power);
    pthread_mutex_destroy(&machine->lock);
}
