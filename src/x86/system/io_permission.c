/* May the program use an I/O port? IOPL, then the bitmap in the TSS (SDM 1 19.5.2; 3A 7.2). */
#include "x86/exec.h"
#include "x86/port.h"

/* Offset of the bitmap's base in a 32-bit or 64-bit TSS. */
enum { IO_MAP_BASE = 102 };

static bool bitmap_allows(struct cpu *cpu, uint16_t port, unsigned size)
{
    const struct segment *tr = &cpu->segment[SEG_TR];
    const gva_t mask = cpu_is_long(cpu) ? ~(gva_t)0 : 0xffffffff;
    uint16_t base, bits;

    /* A 16-bit TSS has no bitmap. */
    if (!(tr->attributes & SEG_P) || !(tr->attributes & 8) || tr->limit < IO_MAP_BASE + 1)
        return raise_gp(cpu, 0);
    if (!mem_read(cpu, (tr->base + IO_MAP_BASE) & mask, &base, 2, MEM_SYSTEM))
        return false;
    /* Two bytes are always read, so the map must end with a byte of ones inside the limit. */
    const uint32_t at = base + port / 8u;
    if (at + 1 > tr->limit)
        return raise_gp(cpu, 0);
    if (!mem_read(cpu, (tr->base + at) & mask, &bits, 2, MEM_SYSTEM))
        return false;
    return !(((unsigned)bits >> (port & 7)) & ((1u << size) - 1)) || raise_gp(cpu, 0);
}

bool io_allowed(struct cpu *cpu, uint16_t port, unsigned size)
{
    const unsigned iopl = (cpu->rflags >> 12) & 3;

    if (cpu->port->io_checked && cpu->port->io_checked(cpu))
        return true;
    if (cpu_is_real(cpu) || (!cpu_is_v86(cpu) && cpu->cpl <= iopl))
        return true;
    return bitmap_allows(cpu, port, size);
}
