/* Aligned physical reads; the contract is in physical.h. */
#include "x86/memory/physical.h"

#include "os/guarded.h"
#include "x86/port.h"

bool physical_peek64(struct cpu *cpu, gpa_t gpa, uint64_t *value)
{
    struct port_page page;

    return cpu->port->page && cpu->port->page(cpu, gpa & PAGE_MASK, ACCESS_READ, &page) &&
           guarded_load64(page.host + (gpa & ~PAGE_MASK), value);
}

bool physical_read64(struct cpu *cpu, gpa_t gpa, uint64_t *value)
{
    struct port_access access = {.gpa = gpa, .type = ACCESS_READ, .size = 8, .data = value};

    if (physical_peek64(cpu, gpa, value))
        return true;
    switch (cpu->port->access(cpu, &access)) {
    case PORT_DONE:
        return true;
    case PORT_FAULT:
        cpu->leave = LEAVE_FAULT;
        return false;
    default:
        cpu->leave = LEAVE_EXIT;
        return false;
    }
}
