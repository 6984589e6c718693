/* Exits by reason; see exit_count.h. */
#include "exit_count.h"

static const struct {
    WHV_RUN_VP_EXIT_REASON reason;
    const char *name;
} reasons[EXIT_REASONS - 1] = {
    {WHvRunVpExitReasonNone, "none"},
    {WHvRunVpExitReasonMemoryAccess, "memory access"},
    {WHvRunVpExitReasonX64IoPortAccess, "port access"},
    {WHvRunVpExitReasonUnrecoverableException, "unrecoverable exception"},
    {WHvRunVpExitReasonInvalidVpRegisterValue, "invalid register value"},
    {WHvRunVpExitReasonUnsupportedFeature, "unsupported feature"},
    {WHvRunVpExitReasonX64InterruptWindow, "interrupt window"},
    {WHvRunVpExitReasonX64Halt, "halt"},
    {WHvRunVpExitReasonX64ApicEoi, "APIC end of interrupt"},
    {WHvRunVpExitReasonSynicSintDeliverable, "SynIC interrupt deliverable"},
    {WHvRunVpExitReasonX64MsrAccess, "MSR access"},
    {WHvRunVpExitReasonX64Cpuid, "CPUID"},
    {WHvRunVpExitReasonException, "exception"},
    {WHvRunVpExitReasonX64Rdtsc, "RDTSC"},
    {WHvRunVpExitReasonX64ApicSmiTrap, "APIC SMI"},
    {WHvRunVpExitReasonHypercall, "hypercall"},
    {WHvRunVpExitReasonX64ApicInitSipiTrap, "APIC INIT or SIPI"},
    {WHvRunVpExitReasonX64ApicWriteTrap, "APIC write"},
    {WHvRunVpExitReasonCanceled, "canceled"},
};

static unsigned index_of(WHV_RUN_VP_EXIT_REASON reason)
{
    unsigned index = 0;
    while (index < EXIT_REASONS - 1 && reasons[index].reason != reason)
        index++;
    return index;
}

void exit_count_add(struct exit_counts *counts, WHV_RUN_VP_EXIT_REASON reason)
{
    counts->by_reason[index_of(reason)]++;
}

const char *exit_count_name(unsigned index)
{
    return index < EXIT_REASONS - 1 ? reasons[index].name : "other";
}

const char *exit_reason_name(WHV_RUN_VP_EXIT_REASON reason) { return exit_count_name(index_of(reason)); }
