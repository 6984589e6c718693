; Virtual-8086 mode with CR4.VME: the redirection bitmap, the virtual interrupt flag; PVI at privilege 3; IRET into and out of
; it with its flags; breakpoints in it.
%include "payload.inc"
%include "protected.inc"

; RUN_VME flags, address: until it leaves
%macro RUN_VME 2
        mov     eax, %1
        RUN_V86 %2
%endmacro

VM      equ 0x20000
VIF     equ 0x80000
VIP     equ 0x100000
IOPL3   equ 0x3000
REDIRECT equ (tss + 104)        ; 32 bytes here; the I/O bitmap behind them

%macro FLAGS_ARE 2              ; mask, value of the flags that the handler found
        mov     eax, [f_eflags]
        and     eax, %1
        CHECK_EQ eax, %2
%endmacro

checks:
        ; the TSS: bitmap base 104 + 32, all vectors redirected but 0x80 and 0x81
        mov     word [tss + 102], 104 + 32
        mov     word [gdt + TSS], 104 + 32 + 32
        mov     byte [gdt + TSS + 5], 0x89
        mov     ax, TSS
        ltr     ax
        mov     edi, REDIRECT
        xor     eax, eax
        mov     ecx, 8
        rep stosd
        mov     byte [REDIRECT + 0x80 / 8], 3
        mov     dword [0x21 * 4], v86_handler
        mov     dword [0x22 * 4], v86_popf_handler
        ; CPUID offers it; without CR4.VME all is as on a 386
        mov     eax, 1
        cpuid
        test    edx, 2
        CHECK   nz
        RUN_VME VM | 0x202, v86_int
        CHECK_EQ dword [f_vector], 13
        mov     eax, cr4
        or      al, 3                   ; VME, PVI
        mov     cr4, eax

        ; ---- INT n through the program's own table ----
        ; IOPL 3: IF and TF are cleared, the frame has the flags
        RUN_VME VM | IOPL3 | 0x203, v86_int
        CHECK_EQ dword [f_vector], 0x80
        CHECK_EQ word [seen], 0x3203    ; what was pushed
        CHECK_EQ word [seen2], v86_int_next
        test    esi, 0x200              ; PUSHF in the handler
        CHECK   z
        CHECK_EQ dword [f_esp], 0x6000
        FLAGS_ARE VM | 0x3200, VM | 0x3200
        ; IOPL 0: VIF stands for IF, an IOPL of 3 is shown; VIF is cleared, IF stays
        RUN_VME VM | VIF | 0x203, v86_int_0
        CHECK_EQ dword [f_vector], 13   ; INT 0x80 at the end: IOPL 0
        CHECK_EQ dword [f_error], 0
        CHECK_EQ word [seen], 0x3203
        test    esi, 0x200
        CHECK   z
        test    esi, 0x3000
        CHECK   nz
        FLAGS_ARE VM | VIF | 0x3200, VM | VIF | 0x200
        RUN_VME VM | 0x203, v86_int_0   ; VIF clear
        CHECK_EQ word [seen], 0x3003
        FLAGS_ARE VM | VIF | 0x3200, VM | 0x200
        ; a set bit: the IDT, with IOPL 3 only
        or      byte [REDIRECT + 0x21 / 8], 2
        RUN_VME VM | IOPL3 | 0x202, v86_int
        CHECK_EQ dword [f_vector], 13   ; the gate's privilege
        CHECK_EQ dword [f_error], 0x21 * 8 + 2
        RUN_VME VM | 0x202, v86_int
        CHECK_EQ dword [f_vector], 13
        CHECK_EQ dword [f_error], 0
        and     byte [REDIRECT + 0x21 / 8], ~2
        ; INT3 is not redirected
        mov     byte [IDT + 3 * 8 + 5], 0xee
        RUN_VME VM | 0x202, v86_int3
        CHECK_EQ dword [f_vector], 3
        CHECK_EQ dword [f_eip], v86_int3 + 1
        ; the bitmap lies beyond the TSS
        mov     word [tss + 102], 0x4000
        RUN_VME VM | IOPL3 | 0x202, v86_int
        CHECK_EQ dword [f_vector], 13
        CHECK_EQ dword [f_error], 0
        CHECK_EQ dword [f_eip], v86_int
        mov     word [tss + 102], 104 + 32

        ; ---- CLI, STI, PUSHF, POPF, IRET with IOPL below 3 ----
        RUN_VME VM | VIF | 0x202, v86_cli
        FLAGS_ARE VIF | 0x200, 0x200
        CHECK_EQ dword [f_eip], v86_cli.end
        RUN_VME VM | 0x202, v86_sti
        FLAGS_ARE VIF | 0x200, VIF | 0x200
        CHECK_EQ dword [f_eip], v86_sti.end
        RUN_VME VM | VIP | 0x202, v86_sti               ; a virtual interrupt waits
        CHECK_EQ dword [f_vector], 13
        CHECK_EQ dword [f_eip], v86_sti
        FLAGS_ARE VIF | VIP, VIP
        RUN_VME VM | VIF | 0x002, v86_pushf
        CHECK_EQ bx, 0x3202
        RUN_VME VM | 0x202, v86_pushf
        CHECK_EQ bx, 0x3002
        RUN_VME VM | 0x202, v86_pushfd
        CHECK_EQ dword [f_eip], v86_pushfd
        RUN_VME VM | 0x202, v86_popf                    ; IF of the image
        FLAGS_ARE VIF | 0x3200 | 1, VIF | 0x200 | 1
        RUN_VME VM | VIF | 0x202, v86_popf_0
        FLAGS_ARE VIF | 0x3200, 0x200
        RUN_VME VM | VIP | 0x202, v86_popf
        CHECK_EQ dword [f_eip], v86_popf.at
        CHECK_EQ dword [f_esp], 0x5ffe                  ; nothing was popped
        RUN_VME VM | VIP | 0x202, v86_popf_0            ; not for a clear IF
        CHECK_EQ dword [f_eip], v86_popf_0.end
        RUN_VME VM | 0x202, v86_popf_tf
        CHECK_EQ dword [f_eip], v86_popf_tf.at
        RUN_VME VM | 0x202, v86_popfd
        CHECK_EQ dword [f_eip], v86_popfd.at
        RUN_VME VM | 0x202, v86_iret
        CHECK_EQ dword [f_eip], v86_iret.end
        FLAGS_ARE VIF | 0x3200 | 1, VIF | 0x200 | 1
        RUN_VME VM | VIP | 0x202, v86_iret
        CHECK_EQ dword [f_eip], v86_iret.at
        RUN_VME VM | 0x202, v86_iretd
        CHECK_EQ dword [f_eip], v86_iretd.at

        ; ---- PVI: CLI and STI at privilege 3 of protected mode; POPF and PUSHF are not concerned ----
        RUN_USER user_sti
        CHECK_EQ dword [f_vector], 0x81
        FLAGS_ARE VIF | 0x200, VIF | 0x200
        RUN_USER user_stcli
        CHECK_EQ dword [f_vector], 0x81
        FLAGS_ARE VIF | 0x200, 0x200
        CHECK_EQ ebx, VIF | 0x202                ; shown as it is
        mov     dword [user_flags], VIP | 0x202
        call    run_with_flags
        CHECK_EQ dword [f_vector], 13
        CHECK_EQ dword [f_eip], user_sti
        mov     eax, cr4
        and     al, ~2
        mov     cr4, eax
        EXPECT_USER 13, 0, user_sti
        ; at privilege 0 IF is meant
        mov     eax, cr4
        or      al, 2
        mov     cr4, eax
        sti
        pushfd
        cli
        pop     eax
        test    eax, 0x200
        CHECK   nz
        test    eax, VIF
        CHECK   z

        ; ---- debug exceptions from virtual-8086 mode ----
        mov     eax, v86_cli.end
        mov     dr0, eax
        mov     eax, 0x402
        mov     dr7, eax
        RUN_VME VM | 0x202, v86_cli
        CHECK_EQ dword [f_vector], 1
        CHECK_EQ dword [f_eip], v86_cli.end
        mov     eax, dr6
        CHECK_EQ eax, 0xffff0ff1
        ; the address is linear: another segment, the same byte
        mov     eax, 0x111 * 16 + 6
        mov     dr0, eax
        mov     eax, 0x10402            ; writes
        mov     dr7, eax
        RUN_VME VM | 0x202, v86_store
        CHECK_EQ dword [f_vector], 1
        CHECK_EQ dword [f_eip], v86_store.behind
        mov     eax, 0x400
        mov     dr7, eax
        RUN_VME VM | 0x202, v86_dr
        CHECK_EQ dword [f_vector], 13
        RUN_VME VM | 0x302, v86_cli     ; TF
        CHECK_EQ dword [f_vector], 1
        CHECK_EQ dword [f_eip], v86_cli.end
        ; over a redirected INT: TF is clear in its handler, no trap
        RUN_VME VM | IOPL3 | 0x302, v86_int_0
        CHECK_EQ dword [f_vector], 1
        CHECK_EQ dword [f_eip], v86_int_0_next + 1      ; TF came back with IRET: the trap after one more

        END_WITH 0

run_with_flags:
        pop     edx
        RESUME_AT .back
        push    UDATA
        push    USTACK
        push    dword [user_flags]
        push    UCODE
        push    user_sti
        iret
.back:  jmp     edx

user_flags:     dd 0
user_sti:       sti
                int 0x81
user_stcli:     sti
                pushfd
                pop ebx
                cli
                int 0x81

        bits    16
v86_int:        int 0x21
v86_int_next:   int 0x80
v86_int_0:      int 0x21
v86_int_0_next: nop
                int 0x80
v86_int3:       int3
v86_handler:    pushf
                pop si
                mov bp, sp
                mov ax, [bp + 4]
                xor di, di
                mov ds, di
                mov [seen], ax
                mov ax, [bp]
                mov [seen2], ax
                iret
v86_popf_handler: iret
v86_cli:        cli
.end:           hlt
v86_sti:        sti
.end:           hlt
v86_pushf:      pushf
                pop bx
                hlt
v86_pushfd:     pushfd
v86_popf:       push word 0x0203
.at:            popf
                hlt
v86_popf_0:     push word 2
                popf
.end:           hlt
v86_popf_tf:    push word 0x0102
.at:            popf
v86_popfd:      push dword 2
.at:            popfd
v86_iret:       push word 0x0203
                push word 0
                push word .end
.at:            iret
.end:           hlt
v86_iretd:      push dword 2
                push dword 0
                push dword 0
.at:            iretd
v86_store:      mov byte [es:6], 1
.behind:        hlt
v86_dr:         mov eax, dr0
        bits    32

gate_target:
gate16_target:
task2:
task3:
task16:         ud2
