#include "support/flat_cpu.h"

#include <stdlib.h>
#include <string.h>

#include "os/guarded.h"
#include "util/check.h"

static struct flat_cpu *flat_of(struct cpu *cpu) { return cpu->port_context; }

static bool flat_page(struct cpu *cpu, gpa_t page_address, enum access_type type, struct port_page *page)
{
    struct flat_cpu *flat = flat_of(cpu);

    if ((!flat->direct && type != ACCESS_EXECUTE) || page_address >= FLAT_SIZE)
        return false;
    page->host = flat->memory + page_address;
    page->rights = flat->direct ? PAGE_READ | PAGE_WRITE | PAGE_EXECUTE : PAGE_EXECUTE;
    return true;
}

static enum port_result flat_access(struct cpu *cpu, const struct port_access *access)
{
    struct flat_cpu *flat = flat_of(cpu);
    const bool inside = access->gpa < FLAT_SIZE && access->size <= FLAT_SIZE - access->gpa;

    if (!inside)
        flat->device_count++;
    if (access->type == ACCESS_READ) {
        if (inside)
            memcpy(access->data, flat->memory + access->gpa, access->size);
        else
            memset(access->data, 0xff, access->size);
    } else if (access->type == ACCESS_WRITE && inside) {
        memcpy(flat->memory + access->gpa, access->data, access->size);
    }
    return PORT_DONE;
}

static enum port_result flat_io(struct cpu *cpu, const struct port_io *io)
{
    struct flat_cpu *flat = flat_of(cpu);

    if (!io->is_write)
        *io->data = io->size == 4 ? flat->io_value : flat->io_value & ((1u << (io->size * 8)) - 1);
    flat->last_io = *io;
    flat->last_io_data = *io->data;
    flat->io_count++;
    return PORT_DONE;
}

static const struct cpu_port flat_port = {.page = flat_page, .access = flat_access, .io = flat_io};

struct flat_cpu *flat_create(void)
{
    struct flat_cpu *flat = calloc(1, sizeof(*flat));

    if (!flat)
        return NULL;
    flat->memory = aligned_alloc(PAGE_SIZE, FLAT_SIZE);
    flat->cpu = cpu_create(&flat_port, flat, 46);
    if (!flat->memory || !flat->cpu || !guarded_init()) {
        flat_destroy(flat);
        return NULL;
    }
    memset(flat->memory, 0, FLAT_SIZE);
    flat->direct = true;
    flat->io_value = 0xffffffff;
    cpuid_init(&flat->cpu->cpuid);
    return flat;
}

void flat_destroy(struct flat_cpu *flat)
{
    if (!flat)
        return;
    cpu_destroy(flat->cpu);
    free(flat->memory);
    free(flat);
}

/* ---- modes ---- */

void flat_real_segment(struct flat_cpu *flat, enum segment_index index, uint16_t selector)
{
    struct segment *s = &flat->cpu->segment[index];

    *s = (struct segment){.base = (uint64_t)selector << 4, .limit = 0xffff, .selector = selector,
                          .attributes = SEG_P | SEG_S | SEG_TYPE_WRITABLE | SEG_TYPE_ACCESSED};
    if (index == SEG_CS)
        s->attributes |= SEG_TYPE_CODE;
}

void flat_real(struct flat_cpu *flat)
{
    for (unsigned i = SEG_ES; i <= SEG_GS; i++)
        flat_real_segment(flat, i, 0);
    flat->cpu->cr0 = CR0_ET;
    flat->cpu->cr4 = 0;
    flat->cpu->efer = 0;
    flat->cpu->cpl = 0;
    flat->cpu->idtr = (struct table_register){.base = 0, .limit = 0x3ff};
    cpu_update_mode(flat->cpu);
    cpu_flush_tlb(flat->cpu, false);
}

void flat_long(struct flat_cpu *flat, bool is_64, uint8_t cpl)
{
    struct cpu *cpu = flat->cpu;
    const uint16_t dpl = (uint16_t)(cpl << SEG_DPL_SHIFT);
    const uint16_t common = (uint16_t)(SEG_P | SEG_S | dpl | SEG_TYPE_WRITABLE | SEG_TYPE_ACCESSED | SEG_G);

    memset(flat->memory + FLAT_TABLES, 0, FLAT_TABLES_END - FLAT_TABLES);
    flat->next_table = FLAT_TABLES + PAGE_SIZE;
    for (unsigned i = SEG_ES; i <= SEG_GS; i++)
        cpu->segment[i] = (struct segment){.limit = 0xffffffff, .selector = 0x2b, .attributes = common | SEG_DB};
    cpu->segment[SEG_TR].limit = 0; /* no I/O bitmap */
    cpu->segment[SEG_FS].selector = cpu->segment[SEG_GS].selector = 0;
    cpu->segment[SEG_CS].selector = is_64 ? 0x33 : 0x23;
    cpu->segment[SEG_CS].attributes = (uint16_t)(common | SEG_TYPE_CODE | (is_64 ? SEG_L : SEG_DB));
    cpu->cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_PG;
    cpu->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT;
    cpu->efer = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;
    cpu->cr3 = FLAT_TABLES;
    cpu->cpl = cpl;
    cpu_update_mode(cpu);
    cpu_flush_tlb(cpu, false);
}

/* The next level's table, made when it is not there. */
static gpa_t next_level(struct flat_cpu *flat, gpa_t table, unsigned index)
{
    uint64_t *entry = (uint64_t *)(void *)(flat->memory + table) + index;

    if (!(*entry & PTE_P)) {
        check(flat->next_table < FLAT_TABLES_END);
        *entry = flat->next_table | PTE_P | PTE_W | PTE_U | PTE_A;
        flat->next_table += PAGE_SIZE;
    }
    return *entry & PAGE_MASK;
}

void flat_map(struct flat_cpu *flat, gva_t gva, gpa_t gpa, unsigned rights)
{
    gpa_t table = FLAT_TABLES;

    for (unsigned shift = 39; shift > 12; shift -= 9)
        table = next_level(flat, table, (gva >> shift) & 511);
    ((uint64_t *)(void *)(flat->memory + table))[(gva >> 12) & 511] =
        gpa | PTE_P | PTE_A | PTE_D | (rights & FLAT_WRITE ? PTE_W : 0) | (rights & FLAT_SUPERVISOR ? 0 : PTE_U) |
        (rights & FLAT_NO_EXECUTE ? PTE_NX : 0);
    cpu_flush_tlb(flat->cpu, false);
}
