; The local APIC as its processor sees it, in the mode that the harness asks for; all processors at once, each with its own.
%include "smp.inc"

V_LOW   equ 0x45
V_MID   equ 0x52
V_HIGH  equ 0x61
V_ERROR equ 0x70
V_TIMER equ 0x81

A_LIST  equ A_SCRATCH                   ; vectors as they came (dd each)
A_COUNT equ A_SCRATCH + 64
A_TIME  equ A_SCRATCH + 72              ; when the timer came

%macro WRITE 2                          ; register, value
        mov     ecx, %1
        mov     eax, %2
        call    apic_write
%endmacro
%macro READ_EQ 2
        mov     ecx, %1
        call    apic_read
        CHECK_EQ eax, %2
%endmacro
%macro WRMSR_OF 2                       ; MSR, value
        mov     ecx, %1
        mov     eax, (%2) & 0xffffffff
        mov     edx, (%2) >> 32
        wrmsr
%endmacro
; #GP for a value of an MSR, for reading one
%macro WRMSR_FAULTS 2
        mov     ecx, %1
        mov     eax, (%2) & 0xffffffff
        mov     edx, ((%2) >> 32) & 0xffffffff
        EXPECT_FAULT 13, 0, wrmsr
%endmacro
%macro RDMSR_FAULTS 1
        mov     ecx, %1
        EXPECT_FAULT 13, 0, rdmsr
%endmacro

main:   test    r15d, r15d
        jnz     .handlers_are_there
        HANDLER V_LOW, on_vector
        HANDLER V_MID, on_vector
        HANDLER V_HIGH, on_vector
        HANDLER V_ERROR, on_vector
        HANDLER V_TIMER, on_timer
.handlers_are_there:
        call    barrier
        mov     r12, r13
.round: call    registers
        call    x2apic_rules
        call    xapic_rules
        call    base_rules
        call    priorities
        call    errors
        call    software_disabled
        call    timers
        call    deadline
        dec     r12
        jnz     .round
        ret

; While it is served its bit is in ISR, not in IRR, and PPR is at least its class.
on_vector:
        mov     eax, [gs:A_COUNT]
        mov     [gs:A_LIST + eax * 4], ecx
        inc     dword [gs:A_COUNT]
        mov     edx, ecx
        shr     ecx, 5
        add     ecx, R_ISR
        call    apic_read
        bt      eax, edx
        CHECK   c
        add     ecx, R_IRR - R_ISR
        call    apic_read
        bt      eax, edx
        CHECK   nc
        mov     ecx, R_PPR
        call    apic_read
        and     edx, 0xf0
        cmp     eax, edx
        CHECK   ae
        jmp     eoi

on_timer:
        inc     dword [gs:A_COUNT]
        rdtsc
        shl     rdx, 32
        or      rax, rdx
        mov     [gs:A_TIME], rax
        jmp     eoi

registers:
        mov     edx, r15d
        cmp     dword [P_X2APIC], 0
        jne     .x2apic_id
        shl     edx, 24
.x2apic_id:
        READ_EQ R_ID, edx
        READ_EQ R_VERSION, 0x50014
        READ_EQ R_SVR, 0x1ff
        ; the task priority and CR8 are one
        WRITE   R_TPR, 0x63
        READ_EQ R_TPR, 0x63
        READ_EQ R_PPR, 0x63
        mov     rax, cr8
        CHECK_EQ rax, 6
        mov     eax, 9
        mov     cr8, rax
        READ_EQ R_TPR, 0x90
        READ_EQ R_PPR, 0x90
        mov     eax, 16
        EXPECT_FAULT 13, 0, mov cr8, rax
        xor     eax, eax
        mov     cr8, rax
        READ_EQ R_TPR, 0
        ; what of the LVT entries can be written
        WRITE   R_TIMER, 0x300ff
        READ_EQ R_TIMER, 0x300ff
        WRITE   R_LINT0, 0x1a7ff
        READ_EQ R_LINT0, 0x1a7ff
        WRITE   R_LINT1, 0x107aa
        READ_EQ R_LINT1, 0x107aa
        WRITE   R_ERROR, 0x100fe
        READ_EQ R_ERROR, 0x100fe
        WRITE   R_LINT0, 0x10000
        WRITE   R_LINT1, 0x10000
        WRITE   R_DIVIDE, 0xb
        READ_EQ R_DIVIDE, 0xb
        WRITE   R_TIMER, 0x10000
        READ_EQ R_CURRENT, 0
        ret

; x2APIC: what does not exist, cannot be read, cannot be written, has reserved bits: #GP (SDM 3A 11.12.1)
x2apic_rules:
        cmp     dword [P_X2APIC], 0
        je      .not_here
        mov     ecx, R_LDR
        call    apic_read
        mov     edx, r15d
        shr     edx, 4
        shl     edx, 16
        mov     ecx, r15d
        and     ecx, 15
        mov     ebx, 1
        shl     ebx, cl
        or      edx, ebx
        CHECK_EQ eax, edx
        RDMSR_FAULTS 0x800
        RDMSR_FAULTS 0x809
        RDMSR_FAULTS 0x80b
        RDMSR_FAULTS 0x80c
        RDMSR_FAULTS 0x80e
        RDMSR_FAULTS 0x831
        RDMSR_FAULTS 0x83f
        RDMSR_FAULTS 0x840
        RDMSR_FAULTS 0x8ff
        WRMSR_FAULTS 0x802, 0
        WRMSR_FAULTS 0x803, 0x50014
        WRMSR_FAULTS 0x80a, 0
        WRMSR_FAULTS 0x80d, 0
        WRMSR_FAULTS 0x80e, -1
        WRMSR_FAULTS 0x810, 0
        WRMSR_FAULTS 0x81f, 0
        WRMSR_FAULTS 0x827, 0
        WRMSR_FAULTS 0x831, 0
        WRMSR_FAULTS 0x839, 0
        WRMSR_FAULTS 0x808, 0x100
        WRMSR_FAULTS 0x808, 0x100000000
        WRMSR_FAULTS 0x80b, 1
        WRMSR_FAULTS 0x80f, 0x1000ff
        WRMSR_FAULTS 0x828, 1
        WRMSR_FAULTS 0x830, 0x100000
        WRMSR_FAULTS 0x832, 0x80000
        WRMSR_FAULTS 0x835, 0x20000
        WRMSR_FAULTS 0x837, 0x400
        WRMSR_FAULTS 0x83e, 4
        WRMSR_FAULTS 0x83f, 0x100
        WRMSR_FAULTS 0x838, 0x100000000
.not_here:
        ret

; xAPIC: the MSRs are not there; logical destinations can be written; reserved bits are dropped.
xapic_rules:
        cmp     dword [P_X2APIC], 0
        jne     .not_here
        RDMSR_FAULTS 0x802
        RDMSR_FAULTS 0x808
        RDMSR_FAULTS 0x830
        WRMSR_FAULTS 0x80b, 0
        WRMSR_FAULTS 0x83f, 0x50
        WRITE   R_LDR, 0x12345678
        READ_EQ R_LDR, 0x12000000
        WRITE   R_DFR, 0x00000000
        READ_EQ R_DFR, 0x0fffffff
        WRITE   R_DFR, 0xffffffff
        READ_EQ R_DFR, 0xffffffff
        WRITE   R_LDR, 0
        WRITE   R_TPR, 0xffffff42
        READ_EQ R_TPR, 0x42
        WRITE   R_TPR, 0
        WRITE   R_ID, 0xff000000        ; fixed
        mov     edx, r15d
        shl     edx, 24
        READ_EQ R_ID, edx
        WRITE   R_DIVIDE, 0xffffffff
        READ_EQ R_DIVIDE, 0xb
.not_here:
        ret

; IA32_APIC_BASE: steps that are none; disabled and back, which forgets everything.
base_rules:
        mov     ecx, 0x1b
        rdmsr
        mov     r8d, eax
        mov     ebx, 0xfee00800
        test    r15d, r15d
        jnz     .not_first
        or      ebx, 0x100              ; the bootstrap processor
.not_first:
        cmp     dword [P_X2APIC], 0
        je      .expected
        or      ebx, 0x400
.expected:
        CHECK_EQ eax, ebx
        CHECK_EQ edx, 0
        mov     eax, r8d
        and     eax, ~0x800
        or      eax, 0x400              ; EXTD without EN
        EXPECT_FAULT 13, 0, wrmsr
        mov     eax, r8d
        or      eax, 1                  ; reserved
        EXPECT_FAULT 13, 0, wrmsr
        mov     eax, r8d
        mov     edx, 0x10000            ; beyond the physical addresses
        EXPECT_FAULT 13, 0, wrmsr
        xor     edx, edx
        cmp     dword [P_X2APIC], 0
        je      .disable
        mov     eax, r8d
        and     eax, ~0x400             ; back to xAPIC only by way of disabled
        EXPECT_FAULT 13, 0, wrmsr
.disable:
        call    apic_tpr_5
        mov     ecx, 0x1b
        xor     edx, edx
        mov     eax, r8d
        and     eax, ~0xc00
        wrmsr
        RDMSR_FAULTS 0x808
        mov     eax, 1
        cpuid
        test    edx, 1 << 9             ; a disabled APIC is not shown
        CHECK   z
        mov     ecx, 0x1b
        xor     edx, edx
        mov     eax, r8d
        or      eax, 0xc00              ; from there into x2APIC mode: not at once
        EXPECT_FAULT 13, 0, wrmsr
        mov     eax, r8d
        and     eax, ~0x400
        wrmsr
        mov     eax, 1
        cpuid
        test    edx, 1 << 9
        CHECK   nz
        cmp     dword [P_X2APIC], 0
        je      .on
        mov     ecx, 0x1b
        xor     edx, edx
        mov     eax, r8d
        wrmsr
.on:    READ_EQ R_SVR, 0xff
        READ_EQ R_TPR, 0
        READ_EQ R_TIMER, 0x10000
        WRITE   R_SVR, 0x1ff
        ret

apic_tpr_5:
        push    rax
        push    rcx
        WRITE   R_TPR, 0x50
        pop     rcx
        pop     rax
        ret

; Highest first; the task priority holds back; what is served holds back what is not higher.
priorities:
        mov     dword [gs:A_COUNT], 0
        mov     eax, V_LOW | I_ASSERT | I_SELF
        call    send
        mov     eax, V_HIGH | I_ASSERT | I_SELF
        call    send
        call    send                    ; the same again is one interrupt
        mov     eax, V_MID | I_ASSERT | I_SELF
        call    send
        READ_EQ R_IRR + V_LOW / 32, 1 << (V_LOW & 31) | 1 << (V_MID & 31)
        READ_EQ R_IRR + V_HIGH / 32, 1 << (V_HIGH & 31)
        CHECK_EQ dword [gs:A_COUNT], 0
        WRITE   R_TPR, 0x50
        sti
        nop
        nop
        CHECK_EQ dword [gs:A_COUNT], 1
        CHECK_EQ dword [gs:A_LIST], V_HIGH
        mov     eax, 4
        mov     cr8, rax
        nop
        CHECK_EQ dword [gs:A_COUNT], 2
        CHECK_EQ dword [gs:A_LIST + 4], V_MID
        xor     eax, eax
        mov     cr8, rax
        nop
        CHECK_EQ dword [gs:A_COUNT], 3
        CHECK_EQ dword [gs:A_LIST + 8], V_LOW
        cli
        call    eoi                     ; with nothing in service: nothing
        READ_EQ R_PPR, 0
        ret

; A vector that is none: the error status shows it when it is written, and the error entry fires.
errors: WRITE   R_ESR, 0
        mov     dword [gs:A_COUNT], 0
        WRITE   R_ERROR, V_ERROR
        sti
        mov     eax, 3 | I_ASSERT | I_SELF
        call    send
        nop
        cli
        CHECK_EQ dword [gs:A_COUNT], 1
        CHECK_EQ dword [gs:A_LIST], V_ERROR
        READ_EQ R_ESR, 0
        WRITE   R_ESR, 0
        READ_EQ R_ESR, 0x20
        WRITE   R_ESR, 0
        READ_EQ R_ESR, 0
        WRITE   R_ERROR, 0x10000
        cmp     dword [P_X2APIC], 0
        jne     .done
        mov     eax, [APIC + 0x50]      ; a register that does not exist
        WRITE   R_ESR, 0
        READ_EQ R_ESR, 0x80
        WRITE   R_ESR, 0
.done:  ret

; Disabled by software: entries are masked and stay so, IPIs do not come; NMI does (see ipi.asm).
software_disabled:
        WRITE   R_TIMER, V_TIMER
        WRITE   R_SVR, 0xff
        READ_EQ R_TIMER, 0x10000 | V_TIMER
        WRITE   R_TIMER, V_TIMER
        READ_EQ R_TIMER, 0x10000 | V_TIMER
        mov     eax, V_LOW | I_ASSERT | I_SELF
        call    send
        READ_EQ R_IRR + V_LOW / 32, 0
        WRITE   R_SVR, 0x1ff
        READ_EQ R_TIMER, 0x10000 | V_TIMER
        ret

; One-shot with every divider, periodic, masked.
%macro WAIT_COUNT 1
%%wait: pause
        cmp     dword [gs:A_COUNT], %1
        jb      %%wait
%endmacro

timers: sti
        WRITE   R_TIMER, V_TIMER
        xor     ebx, ebx
.divide:
        mov     dword [gs:A_COUNT], 0
        mov     eax, ebx
        and     eax, 3
        mov     edx, ebx
        and     edx, 4
        lea     eax, [eax + edx * 2]    ; bits 3, 1, 0
        mov     ecx, R_DIVIDE
        call    apic_write
        READ_EQ R_DIVIDE, eax
        WRITE   R_INITIAL, 2000
        READ_EQ R_INITIAL, 2000
        mov     ecx, R_CURRENT
        call    apic_read
        cmp     eax, 2000
        CHECK   be
        WAIT_COUNT 1
        READ_EQ R_CURRENT, 0
        CHECK_EQ dword [gs:A_COUNT], 1
        inc     ebx
        cmp     ebx, 8
        jb      .divide
        ; periodic: it goes on
        mov     dword [gs:A_COUNT], 0
        WRITE   R_TIMER, 0x20000 | V_TIMER
        WRITE   R_DIVIDE, 0xb
        WRITE   R_INITIAL, 100000
        WAIT_COUNT 3
        WRITE   R_TIMER, 0x30000 | V_TIMER
        mov     ecx, R_CURRENT
        call    apic_read
        test    eax, eax
        CHECK   nz                      ; masked, it counts
        WRITE   R_INITIAL, 0
        READ_EQ R_CURRENT, 0
        WRITE   R_TIMER, 0x10000
        cli
        ; what came due before the mask is still to be taken
        sti
        nop
        cli
        ret

; TSC deadline: not before, once; 0 disarms; other modes do not know it.
deadline:
        mov     ecx, 0x6e0
        mov     eax, 1000
        xor     edx, edx
        wrmsr
        rdmsr
        CHECK_EQ eax, 0                 ; not in this mode
        WRITE   R_TIMER, 0x40000 | V_TIMER
        WRITE   R_INITIAL, 1000         ; ignored
        READ_EQ R_INITIAL, 0
        mov     dword [gs:A_COUNT], 0
        rdtsc
        shl     rdx, 32
        or      rax, rdx
        mov     rbx, 20000000
        add     rbx, rax
        mov     rax, rbx
        mov     rdx, rbx
        shr     rdx, 32
        mov     ecx, 0x6e0
        wrmsr
        sti
        hlt                             ; the timer wakes, also when it came due before STI
        mov     ecx, 0x6e0
        WAIT_COUNT 1
        CHECK_EQ dword [gs:A_COUNT], 1
        cmp     [gs:A_TIME], rbx
        CHECK   ae
        rdmsr
        CHECK_EQ eax, 0
        CHECK_EQ edx, 0
        ; in the past: at once
        mov     eax, 1
        xor     edx, edx
        wrmsr
        WAIT_COUNT 2
        ; far ahead, and disarmed by leaving the mode
        mov     eax, -1
        mov     edx, 0x7fffffff
        wrmsr
        rdmsr
        CHECK_EQ edx, 0x7fffffff
        WRITE   R_TIMER, V_TIMER
        WRITE   R_TIMER, 0x40000 | V_TIMER
        mov     ecx, 0x6e0
        rdmsr
        CHECK_EQ edx, 0
        WRITE   R_TIMER, 0x10000
        cli
        CHECK_EQ dword [gs:A_COUNT], 2
        ret
