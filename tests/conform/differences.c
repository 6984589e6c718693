/*
 * Where the engines differ: the one list. A case named here is skipped, loudly, on the engine it names; every other case must
 * pass on both. docs/engine.md says the same in words.
 */
#include "differences.h"

#include <cpuid.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <WinHvPlatform.h>
#include <openwhp.h>

/* SLOW_KVM: a KVM that interprets guests itself in most modes (no hardware underneath), and only that; FAST_KVM: all others. */
enum where { KVM, SLOW_KVM, FAST_KVM };

/* How WHvGetCapability shows it: an optional exit that is not offered, or a bit of the engine's differences. */
enum { CPUID = 1, EXCEPTIONS = 4, RDTSC = 8, HYPERCALL = 32 };
#define NO_EXIT(bits) WHvCapabilityCodeExtendedVmExits, (bits), false
#define SHOWN(name)   OwhpCapabilityCodeEngineDifferences, OwhpEngineDifference##name, true
#define ELSEWHERE     OwhpCapabilityCodeEngineDifferences, 0, true

static const struct {
    const char *id;
    enum where where;
    WHV_CAPABILITY_CODE capability;
    UINT64 bits;
    bool is_set;
    const char *reason;
} differences[] = {
    {"EXIT-8", KVM, NO_EXIT(CPUID), "KVM answers CPUID in the kernel"},
    {"EXIT-13", KVM, NO_EXIT(RDTSC), "RDTSC runs on the processor"},
    {"EXIT-14", KVM, NO_EXIT(HYPERCALL), "KVM answers hypercalls in the kernel"},
    {"EVENT-1", KVM, NO_EXIT(EXCEPTIONS), "exceptions are delivered by the processor"},
    {"EVENT-2", KVM, NO_EXIT(EXCEPTIONS), "exceptions are delivered by the processor"},
    {"EVENT-3", KVM, NO_EXIT(EXCEPTIONS), "exceptions are delivered by the processor"},
    {"EVENT-4", KVM, NO_EXIT(EXCEPTIONS), "exceptions are delivered by the processor"},
    {"CTX-1", KVM, NO_EXIT(CPUID | RDTSC | EXCEPTIONS | HYPERCALL), "asks for exits of CPUID, RDTSC, exceptions and hypercalls"},
    {"CTX-3", KVM, NO_EXIT(CPUID | RDTSC | EXCEPTIONS | HYPERCALL), "asks for exits of CPUID, RDTSC, exceptions and hypercalls"},
    {"PLAT-7", KVM, NO_EXIT(EXCEPTIONS), "asks for exits of exceptions"},
    {"STATE-7", KVM, NO_EXIT(CPUID | RDTSC), "counts exits that WHvGetCapability does not offer, and what KVM serves in the kernel"},
    {"STATE-12", KVM, NO_EXIT(CPUID), "asks for exits of CPUID"},
    {"STATE-14", KVM, NO_EXIT(EXCEPTIONS), "asks for exits of exceptions"},
    {"EVENT-24", KVM, SHOWN(DebugChains), "KVM delivers debug exceptions itself, and ends their chains in its own way"},
    {"CM-5", KVM, NO_EXIT(EXCEPTIONS), "asks for exits of exceptions"},
    {"CM-12", KVM, SHOWN(UnmappedPageTables), "page tables that no memory slot holds: KVM raises a page fault, or never comes back"},
    {"SNR.1", KVM, NO_EXIT(RDTSC | EXCEPTIONS), "asks for exits of RDTSC and exceptions"},
    {"CTX-4", KVM, NO_EXIT(EXCEPTIONS), "asks for exits of exceptions"},
    {"MEM-7", KVM, SHOWN(SplitStores), "the half of a store that lies in memory is there already when the other half exits"},
    {"PROC-12", KVM, SHOWN(SplitStores), "the half of a store that lies in memory is there already when the other half exits"},
    {"PROC-22", KVM, ELSEWHERE, "an unprivileged process may not open /dev/kvm"},
    {"MEM-10", KVM, SHOWN(UnmappedPageTables), "page tables that no memory slot holds: KVM raises a page fault, or never comes back"},
    {"BELL-11", FAST_KVM, SHOWN(UnmappedPageTables), "page tables that no memory slot holds: KVM raises a page fault, or never comes back"},
    {"VENDOR-1", FAST_KVM, SHOWN(HostVendor), "what the host's processor executes itself, it does as its own vendor"},
    {"VENDOR-2", KVM, SHOWN(HostVendor), "what the host's processor executes itself, it does as its own vendor"},
    {"VENDOR-3", KVM, SHOWN(HostVendor), "what the host's processor executes itself, it does as its own vendor"},
    {"EXIT-3", SLOW_KVM, SHOWN(Interpreted), "user mode runs with IOPL 0"},
    {"EXIT-4", SLOW_KVM, SHOWN(Interpreted), "OUT is over when it exits, and so is the shadow it was in"},
    {"EXIT-5", SLOW_KVM, SHOWN(Interpreted), "OUT is over when it exits, and so is the shadow it was in"},
    {"MEX-6", KVM, SHOWN(SplitStores), "the half of a store that lies in memory is there already when the other half exits"},
    {"MEX-1", KVM, SHOWN(UnmappedPageTables), "a CALL whose stack no memory slot holds ends in an exit of its own"},
    {"MEX-7", KVM, SHOWN(SplitStores), "a read-modify-write has set the flags when its write exits"},
    {"MEX-20", FAST_KVM, SHOWN(NoFlushExits), "KVM makes CLFLUSH no operation where nothing is mapped"},
    {"MEX-4", KVM, SHOWN(UnmappedPageTables), "page tables that no memory slot holds: KVM raises a page fault, or never comes back"},
    {"MEX-5", KVM, SHOWN(UnmappedPageTables), "descriptor tables that no memory slot holds: KVM shuts down, or never comes back"},
    {"MON-1", KVM, SHOWN(NoMonitor), "KVM makes MONITOR and MWAIT no operations, whatever CPUID shows"},
    {"MON-2", KVM, SHOWN(NoMonitor), "KVM makes MONITOR and MWAIT no operations, whatever CPUID shows"},
    {"MON-3", KVM, SHOWN(NoMonitor), "KVM's MWAIT does not wait"},
    {"MON-4", KVM, SHOWN(NoMonitor), "KVM's MWAIT does not wait"},
    {"MON-5", KVM, SHOWN(NoMonitor), "KVM's MWAIT does not wait"},
    {"MON-6", KVM, SHOWN(NoMonitor), "KVM's MWAIT does not wait"},
    {"MON-7", KVM, SHOWN(NoMonitor), "KVM's MWAIT does not wait"},
    {"MON-8", KVM, SHOWN(NoMonitor), "KVM's MWAIT does not wait"},
    {"MON-9", KVM, SHOWN(NoMonitor), "KVM's MWAIT does not wait"},
    {"MON-10", KVM, SHOWN(NoMonitor), "KVM's MWAIT does not wait"},
    {"MON-11", KVM, SHOWN(NoMonitor), "KVM's MWAIT does not wait"},
    {"DEBUG-1", SLOW_KVM, SHOWN(Interpreted), "OUT is over when it exits: running again does not execute it again"},
    {"BELL-10", SLOW_KVM, SHOWN(Interpreted), "MOVBE is an invalid opcode at privilege 0"},
    {"SMP-CODE", SLOW_KVM, SHOWN(Interpreted), "its fetches are not atomic against stores of other processors"},
    {"SMP-LOCK", SLOW_KVM, SHOWN(Interpreted), "locked accesses across cache lines are not atomic; a locked ADC or SBB that has to begin again has lost its carry"},
    {"SMP-APIC", SLOW_KVM, SHOWN(Interpreted), "RDTSC reads the host's time stamp: deadlines computed from it do not come"},
    {"SMP-MONITOR", KVM, SHOWN(NoMonitor), "KVM's MWAIT does not wait"},
    {"SMP-TIME", SLOW_KVM, SHOWN(Interpreted), "RDTSC reads the host's time stamp"},
    {"SMP-64", SLOW_KVM, SHOWN(Interpreted), "64 interpreted processors take too long"},
    {"CPUID-5", KVM, NO_EXIT(CPUID), "asks for exits of CPUID"},
    {"APIC-9", SLOW_KVM, SHOWN(Interpreted), "RDTSC reads the host's time stamp"},
    {"CPUID-1", SLOW_KVM, SHOWN(Interpreted), "CPUID of leaves with sub-leaves is answered by KVM itself"},
    {"CPUID-3", SLOW_KVM, SHOWN(Interpreted), "CPUID of leaves with sub-leaves is answered by KVM itself"},
    {"HOST-3", KVM, SHOWN(SplitStores), "the registers that POPA has read before the exit are written"},
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
    char name[128] = "";

    if (known >= 0)
        return known;
    unsetenv("OPENWHP_ENGINE");
    (void)OwhpQueryEngine(OwhpEngineAuto, name, sizeof(name));
    setenv("OPENWHP_ENGINE", "kvm", 1);
    known = strncmp(name, "kvm", 3) != 0;
    return known;
}

static bool is_here(enum where where)
{
    return where == KVM || is_slow() == (where == SLOW_KVM);
}

const char *engine_difference(const char *id)
{
    for (size_t i = 0; is_kvm() && i < sizeof(differences) / sizeof(differences[0]); i++)
        if (strcmp(differences[i].id, id) == 0 && is_here(differences[i].where))
            return differences[i].reason;
    return NULL;
}

bool kvm_is_on_qemu(void)
{
    unsigned a, name[3];

    __cpuid(0x40000000, a, name[0], name[1], name[2]);
    return is_kvm() && memcmp(name, "TCGTCGTCGTCG", sizeof(name)) == 0;
}

static UINT64 capability(WHV_CAPABILITY_CODE code)
{
    UINT64 value = 0;

    return FAILED(WHvGetCapability(code, &value, sizeof(value), NULL)) ? ~0ull : value;
}

const char *difference_hidden(void)
{
    for (size_t i = 0; is_kvm() && i < sizeof(differences) / sizeof(differences[0]); i++)
        if (is_here(differences[i].where) &&
            (capability(differences[i].capability) & differences[i].bits) != (differences[i].is_set ? differences[i].bits : 0))
            return differences[i].id;
    return NULL;
}

bool engine_differs(OWHP_ENGINE_DIFFERENCES difference)
{
    return capability(OwhpCapabilityCodeEngineDifferences) & (UINT64)difference;
}
