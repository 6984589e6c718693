/* `openwhp info`; see info.h. */
#include "info.h"

#include <WinHvPlatform.h>
#include <openwhp.h>

#include <stdbool.h>
#include <string.h>

static void write_engines(FILE *to)
{
    static const struct {
        OWHP_ENGINE engine;
        const char *name;
    } engines[] = {{OwhpEngineSoft, "soft"}, {OwhpEngineKvm, "kvm"}};
    char reason[300];
    fprintf(to, "engines\n");
    for (unsigned i = 0; i < sizeof engines / sizeof engines[0]; i++) {
        HRESULT result = OwhpQueryEngine(engines[i].engine, reason, sizeof reason);
        if (SUCCEEDED(result))
            fprintf(to, "  %-6s can be used\n", engines[i].name);
        else
            fprintf(to, "  %-6s cannot be used: %s\n", engines[i].name, reason);
    }
    if (SUCCEEDED(OwhpQueryEngine(OwhpEngineAuto, reason, sizeof reason)))
        fprintf(to, "  auto   takes %s\n", reason);
    else
        fprintf(to, "  auto   cannot be used: %s\n", OwhpGetLastErrorText());
}

enum value_form { FORM_YES_NO, FORM_HEX, FORM_NUMBER, FORM_VENDOR, FORM_BITS };

static const char *const feature_bits[] = {
    "partial unmap",  "local APIC emulation",        "xsave",         "dirty page tracking",
    "speculation control", "remote APIC reads",      "idle suspend",  "device assignment",
    "IOMMU",          "processor hot plug",          "device access tracking",
};

static const char *const exit_bits[] = {
    "CPUID",      "MSR",        "exception",  "RDTSC",         "APIC SMI",
    "hypercall",  "INIT/SIPI",  "LINT0",      "LINT1",         "SVR",
    "SynIC connection", "VPCI retarget", "LDR", "DFR",         "GPA access fault",
};

static const char *const difference_bits[] = {
    "reads may be dirty", "split stores", "unmapped page tables", "debug chains", "interpreted", "host's vendor", "no MONITOR",
};

static const struct {
    WHV_CAPABILITY_CODE code;
    const char *name;
    enum value_form form;
    const char *const *bits;
    unsigned bit_count;
} capabilities[] = {
    {WHvCapabilityCodeHypervisorPresent, "platform present", FORM_YES_NO, NULL, 0},
    {WHvCapabilityCodeFeatures, "features", FORM_BITS, feature_bits, 11},
    {WHvCapabilityCodeExtendedVmExits, "optional exits", FORM_BITS, exit_bits, 15},
    {WHvCapabilityCodeExceptionExitBitmap, "exception exits", FORM_HEX, NULL, 0},
    {WHvCapabilityCodeX64MsrExitBitmap, "MSR exits", FORM_HEX, NULL, 0},
    {WHvCapabilityCodeGpaRangePopulateFlags, "populate flags", FORM_HEX, NULL, 0},
    {WHvCapabilityCodeProcessorVendor, "processor vendor", FORM_VENDOR, NULL, 0},
    {WHvCapabilityCodeProcessorFeatures, "processor features", FORM_HEX, NULL, 0},
    {WHvCapabilityCodeProcessorXsaveFeatures, "xsave features", FORM_HEX, NULL, 0},
    {WHvCapabilityCodeProcessorClFlushSize, "cache line (log2)", FORM_NUMBER, NULL, 0},
    {WHvCapabilityCodeProcessorClockFrequency, "TSC frequency (Hz)", FORM_NUMBER, NULL, 0},
    {WHvCapabilityCodeInterruptClockFrequency, "APIC frequency (Hz)", FORM_NUMBER, NULL, 0},
    {WHvCapabilityCodePhysicalAddressWidth, "physical address bits", FORM_NUMBER, NULL, 0},
    {OwhpCapabilityCodeEngineDifferences, "engine differences", FORM_BITS, difference_bits, 7},
};

static void write_bits(FILE *to, UINT64 value, const char *const *names, unsigned count)
{
    bool first = true;
    for (unsigned i = 0; i < 64; i++) {
        if (!(value >> i & 1))
            continue;
        fprintf(to, "%s", first ? "" : ", ");
        if (i < count)
            fprintf(to, "%s", names[i]);
        else
            fprintf(to, "bit %u", i);
        first = false;
    }
    fprintf(to, "%s\n", first ? "none" : "");
}

static const char *vendor_name(UINT64 vendor)
{
    switch ((UINT32)vendor) {
    case WHvProcessorVendorAmd:
        return "AMD";
    case WHvProcessorVendorIntel:
        return "Intel";
    case WHvProcessorVendorHygon:
        return "Hygon";
    default:
        return "unknown";
    }
}

static void write_capability(FILE *to, unsigned index)
{
    UINT64 buffer[8] = {0};
    UINT32 written = 0;
    HRESULT result = WHvGetCapability(capabilities[index].code, buffer, sizeof buffer, &written);
    fprintf(to, "  %-22s ", capabilities[index].name);
    if (FAILED(result)) {
        fprintf(to, "unknown (0x%08x)\n", (unsigned)result);
        return;
    }
    switch (capabilities[index].form) {
    case FORM_YES_NO:
        fprintf(to, "%s\n", buffer[0] != 0 ? "yes" : "no");
        break;
    case FORM_NUMBER:
        fprintf(to, "%llu\n", (unsigned long long)buffer[0]);
        break;
    case FORM_VENDOR:
        fprintf(to, "%s\n", vendor_name(buffer[0]));
        break;
    case FORM_BITS:
        write_bits(to, buffer[0], capabilities[index].bits, capabilities[index].bit_count);
        break;
    default:
        fprintf(to, "0x%llx\n", (unsigned long long)buffer[0]);
    }
}

int info_write(FILE *to)
{
    write_engines(to);
    fprintf(to, "capabilities\n");
    for (unsigned i = 0; i < sizeof capabilities / sizeof capabilities[0]; i++)
        write_capability(to, i);
    return 0;
}
