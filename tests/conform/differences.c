/*
 * Where the engines differ: the one list. A case named here is skipped, loudly, on the engine it names; every other case must
 * pass on both. docs/engine.md says the same in words.
 */
#include "differences.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <WinHvPlatform.h>
#include <openwhp.h>

/* SLOW_KVM: a KVM that interprets guests itself in most modes (no hardware underneath), and only that. */
enum where { KVM, SLOW_KVM };

static const struct {
    const char *id;
    enum where where;
    const char *reason;
} differences[] = {
    {"EXIT-8", KVM, "KVM answers CPUID in the kernel: WHvGetCapability does not offer the exit"},
    {"EXIT-13", KVM, "RDTSC runs on the processor: WHvGetCapability does not offer the exit"},
    {"EXIT-14", KVM, "KVM answers hypercalls in the kernel: WHvGetCapability does not offer the exit"},
    {"EVENT-1", KVM, "exceptions are delivered by the processor: WHvGetCapability does not offer the exit"},
    {"EVENT-2", KVM, "exceptions are delivered by the processor: WHvGetCapability does not offer the exit"},
    {"EVENT-3", KVM, "exceptions are delivered by the processor: WHvGetCapability does not offer the exit"},
    {"EVENT-4", KVM, "exceptions are delivered by the processor: WHvGetCapability does not offer the exit"},
    {"CTX-1", KVM, "asks for exits of CPUID, RDTSC, exceptions and hypercalls, which WHvGetCapability does not offer"},
    {"CTX-3", KVM, "asks for exits of CPUID, RDTSC, exceptions and hypercalls, which WHvGetCapability does not offer"},
    {"PLAT-7", KVM, "asks for exits of exceptions, which WHvGetCapability does not offer"},
    {"STATE-7", KVM, "counts exits that WHvGetCapability does not offer, and what KVM serves in the kernel"},
    {"STATE-12", KVM, "asks for exits of CPUID, which WHvGetCapability does not offer"},
    {"STATE-14", KVM, "asks for exits of exceptions, which WHvGetCapability does not offer"},
    {"EVENT-24", KVM, "KVM delivers debug exceptions itself, and ends their chains in its own way"},
    {"CM-5", KVM, "asks for exits of exceptions, which WHvGetCapability does not offer"},
    {"CM-12", KVM, "page tables that no memory slot holds: KVM raises a page fault, or never comes back"},
    {"SNR.1", KVM, "asks for exits of RDTSC and exceptions, which WHvGetCapability does not offer"},
    {"CTX-4", KVM, "asks for exits of exceptions, which WHvGetCapability does not offer"},
    {"MEM-7", KVM, "the half of a store that lies in memory is there already when the other half exits"},
    {"MEX-6", KVM, "the half of a store that lies in memory is there already when the other half exits"},
    {"MEX-1", KVM, "a CALL whose stack no memory slot holds ends in an exit of its own"},
    {"MEX-7", KVM, "a read-modify-write has set the flags when its write exits"},
    {"MEX-4", KVM, "page tables that no memory slot holds: KVM raises a page fault, or never comes back"},
    {"MEX-5", KVM, "descriptor tables that no memory slot holds: KVM shuts down, or never comes back"},
    {"PROC-12", KVM, "the half of a store that lies in memory is there already when the other half exits"},
    {"PROC-22", KVM, "an unprivileged process may not open /dev/kvm"},
    {"MEM-10", KVM, "page tables that no memory slot holds: KVM raises a page fault, or never comes back"},
    {"MON-1", KVM, "KVM makes MONITOR and MWAIT no operations, whatever CPUID shows"},
    {"MON-2", KVM, "KVM makes MONITOR and MWAIT no operations, whatever CPUID shows"},
    {"MON-3", KVM, "KVM's MWAIT does not wait"}, {"MON-4", KVM, "KVM's MWAIT does not wait"}, {"MON-5", KVM, "KVM's MWAIT does not wait"},
    {"MON-6", KVM, "KVM's MWAIT does not wait"}, {"MON-7", KVM, "KVM's MWAIT does not wait"}, {"MON-8", KVM, "KVM's MWAIT does not wait"},
    {"MON-9", KVM, "KVM's MWAIT does not wait"},
    {"CPUID-5", KVM, "asks for exits of CPUID, which WHvGetCapability does not offer"},
    {"VENDOR-2", KVM, "what the host's processor executes itself, it does as its own vendor"},
    {"VENDOR-3", KVM, "what the host's processor executes itself, it does as its own vendor"},
    {"DEBUG-1", SLOW_KVM, "OUT is over when it exits: running again does not execute it again"},
    {"EXIT-3", SLOW_KVM, "user mode runs with IOPL 0"},
    {"EXIT-4", SLOW_KVM, "OUT is over when it exits, and so is the shadow it was in"},
    {"EXIT-5", SLOW_KVM, "OUT is over when it exits, and so is the shadow it was in"},
    {"BELL-10", SLOW_KVM, "MOVBE is an invalid opcode at privilege 0"},
    {"APIC-9", SLOW_KVM, "RDTSC reads the host's time stamp"},
    {"CPUID-1", SLOW_KVM, "CPUID of leaves with sub-leaves is answered by KVM itself"},
    {"CPUID-3", SLOW_KVM, "CPUID of leaves with sub-leaves is answered by KVM itself"},
    {"HOST-3", SLOW_KVM, "the registers that POPA has read before the exit are written"},
    {"EVENT-9", SLOW_KVM, "interpreted instructions up to HLT pass without a look at the window"},
};

static bool is_kvm(void)
{
    const char *engine = getenv("OPENWHP_ENGINE");

    return engine && strcmp(engine, "kvm") == 0;
}

/* Whether an engine chosen automatically would be another one. */
static bool is_slow(void)
{
    static int known = -1;
    char name[64] = "";

    if (known >= 0)
        return known;
    unsetenv("OPENWHP_ENGINE");
    (void)OwhpQueryEngine(OwhpEngineAuto, name, sizeof(name));
    setenv("OPENWHP_ENGINE", "kvm", 1);
    known = strcmp(name, "kvm") != 0;
    return known;
}

const char *engine_difference(const char *id)
{
    for (size_t i = 0; is_kvm() && i < sizeof(differences) / sizeof(differences[0]); i++)
        if (strcmp(differences[i].id, id) == 0 && (differences[i].where == KVM || is_slow()))
            return differences[i].reason;
    return NULL;
}
