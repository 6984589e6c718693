/* Reports about a machine that has run; see report.h. */
#include "report.h"

#include <string.h>

#include "memory_picture.h"

enum { HEAT_CELLS = 40 };

static void size_text(uint64_t bytes, char *text, size_t room)
{
    if (bytes >= GIB && bytes % GIB == 0)
        snprintf(text, room, "%llu GiB", (unsigned long long)(bytes / GIB));
    else if (bytes >= MIB && bytes % MIB == 0)
        snprintf(text, room, "%llu MiB", (unsigned long long)(bytes / MIB));
    else
        snprintf(text, room, "%llu KiB", (unsigned long long)(bytes / KIB));
}

/* One character per equal part of the range, by the share of its pages that are dirty. */
static void heat_text(const struct machine *machine, const struct memory_row *row, char *text)
{
    static const char shades[] = " .:-=+*#";
    uint64_t pages = row->size / PAGE_BYTES;
    unsigned cells = pages < HEAT_CELLS ? (unsigned)pages : HEAT_CELLS;
    for (unsigned i = 0; i < cells; i++) {
        uint64_t first = pages * i / cells, end = pages * (i + 1) / cells;
        uint64_t dirty = guest_map_dirty_pages(&machine->map, row->gpa + first * PAGE_BYTES,
                                               (end - first) * PAGE_BYTES);
        uint64_t shade = dirty == 0 ? 0 : 1 + (dirty * 6) / (end - first);
        text[i] = shades[shade];
    }
    text[cells] = '\0';
}

static const char border[] = "+------------------------------------------+";

static void map_row(const struct machine *machine, const struct memory_row *row, FILE *to)
{
    char size[32], heat[HEAT_CELLS + 1];
    size_text(row->size, size, sizeof size);
    fprintf(to, "  %012llx %s\n", (unsigned long long)row->gpa, border);
    fprintf(to, "               | %-20.20s %10s   %-5s |", row->name, size, row->access);
    if (row->counted)
        fprintf(to, " %llu dirty", (unsigned long long)row->dirty_pages);
    fprintf(to, "\n");
    if (row->counted && row->dirty_pages > 0) {
        heat_text(machine, row, heat);
        fprintf(to, "               | %-40s |\n", heat);
    }
}

static void write_map(const struct machine *machine, FILE *to)
{
    struct memory_row rows[MEMORY_ROWS];
    unsigned count = memory_picture_rows(machine, rows);
    fprintf(to, "\nGuest physical memory\n");
    for (unsigned i = 0; i < count; i++) {
        map_row(machine, &rows[i], to);
        uint64_t end = rows[i].gpa + rows[i].size;
        if (i + 1 < count && rows[i + 1].gpa == end)
            continue;
        fprintf(to, "  %012llx %s\n", (unsigned long long)end, border);
        if (i + 1 < count)
            fprintf(to, "               :\n");
    }
}

static void write_screen(const struct machine *machine, FILE *to)
{
    char text[VGA_COLUMNS + 1];
    unsigned rows = vga_text_used_rows(&machine->devices.vga);
    if (rows == 0)
        return;
    fprintf(to, "\nText screen\n");
    for (unsigned row = 0; row < rows; row++) {
        vga_text_row(&machine->devices.vga, row, text);
        fprintf(to, "  |%-80s|\n", text);
    }
}

static uint64_t exits_of_reason(const struct machine *machine, unsigned reason)
{
    uint64_t total = 0;
    for (unsigned i = 0; i < machine->processor_count; i++)
        total += machine->processors[i].exits.by_reason[reason];
    return total;
}

static void write_exits(const struct machine *machine, FILE *to)
{
    fprintf(to, "\nExits by reason\n");
    for (unsigned reason = 0; reason < EXIT_REASONS; reason++) {
        uint64_t total = exits_of_reason(machine, reason);
        if (total > 0)
            fprintf(to, "  %12llu  %s\n", (unsigned long long)total, exit_count_name(reason));
    }
}

static void write_dirty(const struct machine *machine, FILE *to)
{
    struct memory_row rows[MEMORY_ROWS];
    unsigned count = memory_picture_rows(machine, rows);
    uint64_t total = 0;
    fprintf(to, "\nPages written by the guest\n");
    for (unsigned i = 0; i < count; i++) {
        if (!rows[i].counted)
            continue;
        total += rows[i].dirty_pages;
        fprintf(to, "  %012llx-%012llx  %10llu of %llu\n", (unsigned long long)rows[i].gpa,
                (unsigned long long)(rows[i].gpa + rows[i].size - 1), (unsigned long long)rows[i].dirty_pages,
                (unsigned long long)(rows[i].size / PAGE_BYTES));
    }
    fprintf(to, "  %-25s  %10llu (%llu KiB)\n", "together", (unsigned long long)total,
            (unsigned long long)(total * PAGE_BYTES / KIB));
}

/* Names are ours and need no escapes. */
static void json_map(const struct machine *machine, bool dirty, FILE *to)
{
    struct memory_row rows[MEMORY_ROWS];
    unsigned count = memory_picture_rows(machine, rows);
    bool first = true;
    fprintf(to, dirty ? "\"dirty\":[" : "\"map\":[");
    for (unsigned i = 0; i < count; i++) {
        const struct memory_row *row = &rows[i];
        if (dirty && !row->counted)
            continue;
        fprintf(to, "%s{\"gpa\":%llu,\"size\":%llu", first ? "" : ",", (unsigned long long)row->gpa,
                (unsigned long long)row->size);
        if (dirty)
            fprintf(to, ",\"dirty_pages\":%llu}", (unsigned long long)row->dirty_pages);
        else
            fprintf(to, ",\"kind\":\"%s\",\"name\":\"%s\",\"access\":\"%s\"}", row->kind, row->name,
                    row->access);
        first = false;
    }
    fprintf(to, "]");
}

static void json_exits(const struct machine *machine, FILE *to)
{
    fprintf(to, "\"exits\":[");
    for (unsigned i = 0; i < machine->processor_count; i++) {
        bool first = true;
        fprintf(to, "%s{", i > 0 ? "," : "");
        for (unsigned reason = 0; reason < EXIT_REASONS; reason++) {
            uint64_t count = machine->processors[i].exits.by_reason[reason];
            if (count == 0)
                continue;
            fprintf(to, "%s\"%s\":%llu", first ? "" : ",", exit_count_name(reason),
                    (unsigned long long)count);
            first = false;
        }
        fprintf(to, "}");
    }
    fprintf(to, "]");
}

static void write_json(const struct machine *machine, FILE *to)
{
    const struct options *options = machine->options;
    fprintf(to, "\n{\"memory\":%llu,\"processors\":%u", (unsigned long long)machine->memory.size,
            machine->processor_count);
    if (options->report_map) {
        fprintf(to, ",");
        json_map(machine, false, to);
    }
    if (options->report_exits) {
        fprintf(to, ",");
        json_exits(machine, to);
    }
    if (options->report_dirty) {
        fprintf(to, ",");
        json_map(machine, true, to);
    }
    fprintf(to, "}\n");
}

void report_write(const struct machine *machine, FILE *to)
{
    const struct options *options = machine->options;
    if (options->report_json) {
        write_json(machine, to);
        return;
    }
    if (options->report_map) {
        write_map(machine, to);
        write_screen(machine, to);
    }
    if (options->report_exits)
        write_exits(machine, to);
    if (options->report_dirty)
        write_dirty(machine, to);
}
