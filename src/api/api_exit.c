#include "api/api_exit.h"

#include <string.h>

#include "util/check.h"

/* ---- the numbers that exit.h takes over from the API ---- */

#define SAME(ours, theirs) _Static_assert((int)(ours) == (int)(theirs), #ours)
SAME(EXIT_NONE, WHvRunVpExitReasonNone);
SAME(EXIT_MEMORY_ACCESS, WHvRunVpExitReasonMemoryAccess);
SAME(EXIT_IO_PORT, WHvRunVpExitReasonX64IoPortAccess);
SAME(EXIT_UNRECOVERABLE_EXCEPTION, WHvRunVpExitReasonUnrecoverableException);
SAME(EXIT_INVALID_REGISTER_VALUE, WHvRunVpExitReasonInvalidVpRegisterValue);
SAME(EXIT_UNSUPPORTED_FEATURE, WHvRunVpExitReasonUnsupportedFeature);
SAME(EXIT_INTERRUPT_WINDOW, WHvRunVpExitReasonX64InterruptWindow);
SAME(EXIT_HALT, WHvRunVpExitReasonX64Halt);
SAME(EXIT_APIC_EOI, WHvRunVpExitReasonX64ApicEoi);
SAME(EXIT_MSR_ACCESS, WHvRunVpExitReasonX64MsrAccess);
SAME(EXIT_CPUID, WHvRunVpExitReasonX64Cpuid);
SAME(EXIT_EXCEPTION, WHvRunVpExitReasonException);
SAME(EXIT_RDTSC, WHvRunVpExitReasonX64Rdtsc);
SAME(EXIT_APIC_SMI_TRAP, WHvRunVpExitReasonX64ApicSmiTrap);
SAME(EXIT_HYPERCALL, WHvRunVpExitReasonHypercall);
SAME(EXIT_APIC_INIT_SIPI_TRAP, WHvRunVpExitReasonX64ApicInitSipiTrap);
SAME(EXIT_APIC_WRITE_TRAP, WHvRunVpExitReasonX64ApicWriteTrap);
SAME(EXIT_CANCELED, WHvRunVpExitReasonCanceled);
SAME(GPA_ACCESS_READ, WHvMemoryAccessRead);
SAME(GPA_ACCESS_WRITE, WHvMemoryAccessWrite);
SAME(GPA_ACCESS_EXECUTE, WHvMemoryAccessExecute);
#undef SAME

#define HEADER  offsetof(WHV_RUN_VP_EXIT_CONTEXT, MemoryAccess)
#define NEED(member) ((UINT32)(HEADER + sizeof(((WHV_RUN_VP_EXIT_CONTEXT *)0)->member)))

/* Those that need more clear it themselves. */
#define WITHIN_HEAD(member) _Static_assert(NEED(member) <= EXIT_CONTEXT_HEAD, #member)
WITHIN_HEAD(MemoryAccess);
WITHIN_HEAD(MsrAccess);
WITHIN_HEAD(VpException);
WITHIN_HEAD(InterruptWindow);
WITHIN_HEAD(UnsupportedFeature);
WITHIN_HEAD(CancelReason);
WITHIN_HEAD(ApicEoi);
WITHIN_HEAD(ReadTsc);
WITHIN_HEAD(ApicSmi);
WITHIN_HEAD(ApicInitSipi);
WITHIN_HEAD(ApicWrite);
#undef WITHIN_HEAD

/* A string instruction (what the compiler makes of memset here) takes longer to begin than this to end. */
static always_inline void clear(WHV_RUN_VP_EXIT_CONTEXT *context, size_t from, size_t to)
{
    typedef UINT64 quarter __attribute__((vector_size(16), may_alias, aligned(8)));
    UINT8 *bytes = (UINT8 *)context;

    for (size_t at = from; at < to; at += sizeof(quarter)) {
        quarter *q = (quarter *)(void *)(bytes + at);
        *q = (quarter){0, 0};
        __asm__ volatile("" : "+m"(*q)); /* or the compiler knows what the loop is */
    }
}

static void fill_state(const struct exit_state *state, WHV_VP_EXIT_CONTEXT *out)
{
    WHV_X64_VP_EXECUTION_STATE flags = {.AsUINT16 = 0}; /* put together in a register */

    flags.Cpl = state->cpl & 3u;
    flags.Cr0Pe = state->cr0_pe;
    flags.Cr0Am = state->cr0_am;
    flags.EferLma = state->efer_lma;
    flags.DebugActive = state->debug_active;
    flags.InterruptionPending = state->interruption_pending;
    flags.InterruptShadow = state->interrupt_shadow;
    out->ExecutionState = flags;
    out->InstructionLength = state->instruction_length & 15u;
    out->Cr8 = state->cr8 & 15u;
    memcpy(&out->Cs, &state->cs, sizeof(out->Cs));
    out->Rip = state->rip;
    out->Rflags = state->rflags;
}

/* The instruction's bytes, which stand alike in three contexts. */
static UINT8 fill_bytes(const struct exit_bytes *code, UINT8 *bytes)
{
    memcpy(bytes, code->bytes, sizeof(code->bytes));
    return code->count;
}

static void fill_memory(const struct vcpu_exit *exit, WHV_MEMORY_ACCESS_CONTEXT *out)
{
    out->InstructionByteCount = fill_bytes(&exit->code, out->InstructionBytes);
    out->AccessInfo.AccessType = exit->memory.type & 3u;
    out->AccessInfo.GpaUnmapped = exit->memory.gpa_unmapped;
    out->AccessInfo.GvaValid = exit->memory.gva_valid;
    out->Gpa = exit->memory.gpa;
    out->Gva = exit->memory.gva_valid ? exit->memory.gva : 0;
}

static void fill_io(const struct vcpu_exit *exit, WHV_X64_IO_PORT_ACCESS_CONTEXT *out)
{
    out->InstructionByteCount = fill_bytes(&exit->code, out->InstructionBytes);
    out->AccessInfo.IsWrite = exit->io.is_write;
    out->AccessInfo.AccessSize = exit->io.size & 7u;
    out->AccessInfo.StringOp = exit->io.is_string;
    out->AccessInfo.RepPrefix = exit->io.has_rep;
    out->PortNumber = exit->io.port;
    out->Rax = exit->io.rax;
    out->Rcx = exit->io.rcx;
    out->Rsi = exit->io.rsi;
    out->Rdi = exit->io.rdi;
    memcpy(&out->Ds, &exit->io.ds, sizeof(out->Ds));
    memcpy(&out->Es, &exit->io.es, sizeof(out->Es));
}

static void fill_cpuid(const struct vcpu_exit *exit, WHV_X64_CPUID_ACCESS_CONTEXT *out)
{
    out->Rax = exit->cpuid.rax;
    out->Rcx = exit->cpuid.rcx;
    out->Rdx = exit->cpuid.rdx;
    out->Rbx = exit->cpuid.rbx;
    out->DefaultResultRax = exit->cpuid.default_rax;
    out->DefaultResultRcx = exit->cpuid.default_rcx;
    out->DefaultResultRdx = exit->cpuid.default_rdx;
    out->DefaultResultRbx = exit->cpuid.default_rbx;
}

static void fill_exception(const struct vcpu_exit *exit, WHV_VP_EXCEPTION_CONTEXT *out)
{
    out->InstructionByteCount = fill_bytes(&exit->code, out->InstructionBytes);
    out->ExceptionInfo.ErrorCodeValid = exit->exception.has_error;
    out->ExceptionInfo.SoftwareException = exit->exception.is_software;
    out->ExceptionType = exit->exception.vector;
    out->ErrorCode = exit->exception.error;
    out->ExceptionParameter = exit->exception.parameter;
}

static void fill_rdtsc(const struct vcpu_exit *exit, WHV_X64_RDTSC_CONTEXT *out)
{
    out->TscAux = exit->rdtsc.tsc_aux;
    out->VirtualOffset = exit->rdtsc.virtual_offset;
    out->Tsc = exit->rdtsc.tsc;
    out->ReferenceTime = exit->rdtsc.reference_time;
    out->RdtscInfo.IsRdtscp = exit->rdtsc.is_rdtscp;
}

static void fill_hypercall(const struct vcpu_exit *exit, WHV_HYPERCALL_CONTEXT *out)
{
    out->Rax = exit->hypercall.rax;
    out->Rbx = exit->hypercall.rbx;
    out->Rcx = exit->hypercall.rcx;
    out->Rdx = exit->hypercall.rdx;
    out->R8 = exit->hypercall.r8;
    out->Rsi = exit->hypercall.rsi;
    out->Rdi = exit->hypercall.rdi;
    memcpy(out->XmmRegisters, exit->hypercall.xmm, sizeof(out->XmmRegisters));
}

static UINT32 fill_reason(const struct vcpu_exit *exit, WHV_RUN_VP_EXIT_CONTEXT *out)
{
    switch (exit->reason) {
    case EXIT_MEMORY_ACCESS:
        fill_memory(exit, &out->MemoryAccess);
        return NEED(MemoryAccess);
    case EXIT_IO_PORT:
        clear(out, EXIT_CONTEXT_HEAD, NEED(IoPortAccess));
        fill_io(exit, &out->IoPortAccess);
        return NEED(IoPortAccess);
    case EXIT_UNSUPPORTED_FEATURE:
        out->UnsupportedFeature.FeatureCode = (WHV_X64_UNSUPPORTED_FEATURE_CODE)exit->unsupported.code;
        out->UnsupportedFeature.FeatureParameter = exit->unsupported.parameter;
        return NEED(UnsupportedFeature);
    case EXIT_INTERRUPT_WINDOW:
        out->InterruptWindow.DeliverableType = (WHV_X64_PENDING_INTERRUPTION_TYPE)exit->window.type;
        return NEED(InterruptWindow);
    case EXIT_APIC_EOI:
        out->ApicEoi.InterruptVector = exit->eoi.vector;
        return NEED(ApicEoi);
    case EXIT_MSR_ACCESS:
        out->MsrAccess.AccessInfo.IsWrite = exit->msr.is_write;
        out->MsrAccess.MsrNumber = exit->msr.index;
        out->MsrAccess.Rax = exit->msr.rax;
        out->MsrAccess.Rdx = exit->msr.rdx;
        return NEED(MsrAccess);
    case EXIT_CPUID:
        clear(out, EXIT_CONTEXT_HEAD, NEED(CpuidAccess));
        fill_cpuid(exit, &out->CpuidAccess);
        return NEED(CpuidAccess);
    case EXIT_EXCEPTION:
        fill_exception(exit, &out->VpException);
        return NEED(VpException);
    case EXIT_RDTSC:
        fill_rdtsc(exit, &out->ReadTsc);
        return NEED(ReadTsc);
    case EXIT_APIC_SMI_TRAP:
        out->ApicSmi.ApicIcr = exit->apic_icr.icr;
        return NEED(ApicSmi);
    case EXIT_APIC_INIT_SIPI_TRAP:
        out->ApicInitSipi.ApicIcr = exit->apic_icr.icr;
        return NEED(ApicInitSipi);
    case EXIT_APIC_WRITE_TRAP:
        out->ApicWrite.Type = (WHV_X64_APIC_WRITE_TYPE)exit->apic_write.type;
        out->ApicWrite.WriteValue = exit->apic_write.value;
        return NEED(ApicWrite);
    case EXIT_HYPERCALL:
        clear(out, EXIT_CONTEXT_HEAD, NEED(Hypercall));
        fill_hypercall(exit, &out->Hypercall);
        return NEED(Hypercall);
    case EXIT_CANCELED:
        out->CancelReason.CancelReason = WHvRunVpCancelReasonUser;
        return NEED(CancelReason);
    case EXIT_NONE:
    case EXIT_UNRECOVERABLE_EXCEPTION:
    case EXIT_INVALID_REGISTER_VALUE:
    case EXIT_HALT:
        break;
    }
    return HEADER;
}

UINT32 exit_to_context(const struct vcpu_exit *exit, WHV_RUN_VP_EXIT_CONTEXT *context)
{
    clear(context, 0, EXIT_CONTEXT_HEAD);
    context->ExitReason = (WHV_RUN_VP_EXIT_REASON)exit->reason;
    fill_state(&exit->state, &context->VpContext);
    return fill_reason(exit, context);
}
