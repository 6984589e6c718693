/*
 * Guest memory as one of its processors finds it: the register page of its emulated local APIC, where there is one now (xAPIC
 * mode, enabled; wherever IA32_APIC_BASE has moved it), is in front of what is mapped there, or is there though nothing is mapped.
 */
#ifndef OWHP_CORE_APIC_PAGE_H
#define OWHP_CORE_APIC_PAGE_H

#include "core/partition.h"

/*
 * Reads or writes for which vcpu_apic_is_in was true: those bytes of them that lie in the page are loads and stores of the
 * processor, side effects included (engine.h, apic_access); the others are gpa_space_read or -write. All or nothing. If the
 * processor runs, it stands still for that long. Any thread that holds no lock of the partition.
 *
 * STATUS_VP_DOES_NOT_EXIST
 * STATUS_INVALID_VP_STATE  a write, and an exit that an earlier one has made waits for the processor's next run
 * and what gpa_space_read and -write say.
 */
must_check enum status apic_page_read(struct vcpu *vcpu, gpa_t gpa, void *buffer, uint32_t size);
must_check enum status apic_page_write(struct vcpu *vcpu, gpa_t gpa, const void *buffer, uint32_t size);

#endif
