/* Interrupt lines; see irq.h. */
#include "irq.h"

#include <stddef.h>

#include "ioapic.h"
#include "pic8259.h"

static void drive(struct irq_router *router, unsigned line, bool level)
{
    if (router->pic != NULL)
        pic8259_set_line(router->pic, line, level);
    if (router->ioapic != NULL)
        ioapic_set_pin(router->ioapic, line == 0 ? 2 : line, level);
}

void irq_set(struct irq_source *source, bool raised)
{
    struct irq_router *router = source->router;
    if (source->raised == raised || router == NULL || source->line >= IRQ_LINES)
        return;
    source->raised = raised;
    uint8_t *sources = &router->sources[source->line];
    if (raised) {
        if ((*sources)++ == 0)
            drive(router, source->line, true);
    } else if (--(*sources) == 0) {
        drive(router, source->line, false);
    }
}

void irq_pulse(struct irq_source *source)
{
    irq_set(source, true);
    irq_set(source, false);
}
