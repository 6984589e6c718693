; 64-bit mode: exceptions, page faults, privilege changes, SYSCALL, compatibility mode, control registers.
%include "payload.inc"
%include "long.inc"

main:
        ; ---- plain exceptions: RIP, RF, alignment of the frame ----
        EXPECT_FAULT 6, 0, ud2
        test    qword [f_flags], 0x10000        ; faults push RF
        CHECK   nz
        RESUME_AT .int3
        int3
.int3:  CHECK_EQ qword [f_vector], 3
        CHECK_EQ qword [f_rip], .int3
        test    qword [f_flags], 0x10000
        CHECK   z
        xor     ecx, ecx
        EXPECT_FAULT 0, 0, div ecx
        sub     rsp, 3                          ; an odd stack: the frame is aligned all the same
        mov     rbx, rsp
        EXPECT_FAULT 6, 0, ud2
        CHECK_EQ [f_rsp], rbx
        add     rsp, 3
        test    qword [f_handler_rsp], 15       ; 5 elements, error, vector, rax: 16-byte aligned again
        CHECK   z
        CHECK_EQ word [f_handler_ss], KDATA     ; no change of privilege: SS stays

        ; ---- canonical addresses ----
        mov     rbx, 0x0000800000000000
        EXPECT_FAULT 13, 0, mov al, [rbx]
        mov     rcx, rsp
        mov     rsp, rbx
        RESUME_AT .bad_stack
        mov     [resume_rsp], rcx
.push:  push    rax                             ; 0x7ffffffffff8 is canonical, but not present: #PF, its frame too: #DF
.bad_stack:
        CHECK_EQ qword [f_vector], 8
        CHECK_EQ qword [f_error], 0
        CHECK_EQ qword [f_handler_rsp], IST1 - 8 * 8
        lea     rsp, [rbx + 16]
        RESUME_AT .bad_stack2
        mov     [resume_rsp], rcx
        push    rax                             ; #SS, whose frame raises #SS: #DF
.bad_stack2:
        CHECK_EQ qword [f_vector], 8
        mov     rsp, rcx
        mov     rbp, rbx
        EXPECT_FAULT 12, 0, mov al, [rbp]       ; BP goes through SS
        EXPECT_FAULT 13, 0, jmp rbx
        EXPECT_FAULT 13, 0, call rbx
        push    rbx
        EXPECT_FAULT 13, 0, ret
        pop     rbx

        ; ---- page faults ----
        mov     rbx, 0x2000000                  ; beyond what PD maps
        EXPECT_FAULT 14, 0, mov al, [rbx]
        CHECK_EQ [f_cr2], rbx
        EXPECT_FAULT 14, 2, mov [rbx + 3], eax
        add     rbx, 3
        CHECK_EQ [f_cr2], rbx
        EXPECT_FAULT 14, 2, inc dword [rbx]     ; read-modify-write is a write
        EXPECT_FAULT 14, 2, lock inc dword [rbx]
        RESUME_AT .fetch
        jmp     rbx
.fetch: CHECK_EQ qword [f_vector], 14
        CHECK_EQ qword [f_error], 0x10
        CHECK_EQ [f_rip], rbx
        CHECK_EQ [f_cr2], rbx

        ; read-only pages and CR0.WP
        mov     rbx, PAGES + 0x1000
        and     byte [PT + 8], ~2
        invlpg  [rbx]
        mov     eax, [rbx]
        EXPECT_FAULT 14, 3, mov [rbx], eax
        mov     rax, cr0
        and     eax, ~0x10000
        mov     cr0, rax
        mov     dword [rbx], 0x11223344
        or      eax, 0x10000
        mov     cr0, rax
        EXPECT_FAULT 14, 3, mov [rbx], eax
        CHECK_EQ dword [rbx], 0x11223344

        ; accessed and dirty
        mov     rbx, PAGES + 0x2000
        test    byte [PT + 2 * 8], 0x60
        CHECK   z
        mov     al, [rbx]
        mov     al, [PT + 2 * 8]
        and     al, 0x60
        CHECK_EQ al, 0x20
        mov     [rbx], al
        mov     al, [PT + 2 * 8]
        and     al, 0x60
        CHECK_EQ al, 0x60

        ; no-execute
        mov     rbx, PAGES + 0x3000
        mov     byte [rbx], 0xc3
        call    rbx
        mov     rax, 1 << 63
        or      [PT + 3 * 8], rax
        invlpg  [rbx]
        RESUME_AT .nx
        call    rbx
.nx:    CHECK_EQ qword [f_vector], 14
        CHECK_EQ qword [f_error], 0x11
        CHECK_EQ [f_rip], rbx
        mov     al, [rbx]

        ; reserved bits
        mov     rbx, PAGES + 0x4000
        mov     rax, 1 << 45                    ; the processor has 40 physical address bits
        or      [PT + 4 * 8], rax
        EXPECT_FAULT 14, 9, mov al, [rbx]
        EXPECT_FAULT 14, 11, mov [rbx], al
        xor     [PT + 4 * 8], rax
        mov     [rbx], al

        ; a store across pages: the second one faults, the first is untouched
        mov     rbx, PAGES + 0x6ffc
        mov     qword [PT + 7 * 8], 0
        mov     dword [rbx], 0x55555555
        mov     rax, -1
        EXPECT_FAULT 14, 2, mov [rbx], rax
        CHECK_EQ dword [rbx], 0x55555555
        CHECK_EQ qword [f_cr2], PAGES + 0x7000
        EXPECT_FAULT 14, 0, mov rax, [rbx]

        ; remapping is seen after INVLPG, CR3, and through the 1 GiB page
        mov     dword [PAGES + 0x8000], 0x88888888
        mov     dword [PAGES + 0x9000], 0x99999999
        mov     rbx, PAGES + 0x8000
        mov     eax, [rbx]
        mov     qword [PT + 8 * 8], PAGES + 0x9000 + 3
        invlpg  [rbx]
        CHECK_EQ dword [rbx], 0x99999999
        CHECK_EQ dword [0x40000000 + rbx], 0x88888888
        mov     qword [PT + 8 * 8], PAGES + 0x8000 + 3
        mov     rax, cr3
        mov     cr3, rax
        CHECK_EQ dword [rbx], 0x88888888
        mov     qword [PT + 8 * 8], PAGES + 0x9000 + 0x103      ; global
        mov     rax, cr4
        xor     al, 0x80
        mov     cr4, rax                                        ; PGE
        CHECK_EQ dword [rbx], 0x99999999
        mov     qword [PT + 8 * 8], PAGES + 0x8000 + 3
        mov     rax, cr4
        xor     al, 0x80
        mov     cr4, rax                                        ; changing PGE flushes global pages too
        CHECK_EQ dword [rbx], 0x88888888

        ; ---- segments ----
        mov     ax, NOTPRES
        EXPECT_FAULT 11, NOTPRES, mov ds, ax
        EXPECT_FAULT 12, NOTPRES, mov ss, ax
        mov     ax, RODATA
        mov     ds, ax
        EXPECT_FAULT 13, RODATA, mov ss, ax
        mov     ax, KCODE
        EXPECT_FAULT 13, KCODE, mov ss, ax
        mov     ax, 0x2000
        EXPECT_FAULT 13, 0x2000, mov es, ax
        mov     ax, 0x2003
        EXPECT_FAULT 13, 0x2000, mov fs, ax
        mov     ax, KDATA | 3
        EXPECT_FAULT 13, KDATA, mov ss, ax
        xor     eax, eax
        mov     ss, ax                          ; null is fine in 64-bit mode at privilege 0
        push    rax
        pop     rax
        EXPECT_FAULT 6, 0, ud2
        CHECK_EQ qword [f_ss], 0
        mov     ax, KDATA
        mov     ss, ax
        mov     ds, ax
        mov     es, ax
        test    byte [gdt + KDATA + 5], 1       ; accessed
        CHECK   nz
        str     ax
        CHECK_EQ ax, TSS
        CHECK_EQ byte [gdt + TSS + 5], 0x8b     ; busy
        mov     ax, TSS
        EXPECT_FAULT 13, TSS, ltr ax
        mov     ax, LDT
        lldt    ax
        sldt    eax
        CHECK_EQ eax, LDT
        mov     ax, 0x0c                        ; entry 1 of the LDT: kernel code, readable
        mov     es, ax
        mov     ax, 0x1c
        EXPECT_FAULT 13, 0x1c, mov es, ax       ; beyond its limit
        xor     eax, eax
        lldt    ax
        mov     ax, 0x0c
        EXPECT_FAULT 13, 0x0c, mov es, ax
        mov     ax, KDATA
        mov     es, ax

        ; LAR, LSL, VERR, VERW
        mov     eax, KDATA
        lar     ebx, eax
        CHECK   z
        CHECK_EQ ebx, 0x00cf9300
        lsl     ebx, eax
        CHECK   z
        CHECK_EQ ebx, -1
        verw    ax
        CHECK   z
        mov     eax, RODATA
        verr    ax
        CHECK   z
        verw    ax
        CHECK   nz
        mov     eax, GATE
        lsl     ebx, eax
        CHECK   nz
        lar     ebx, eax
        CHECK   z
        mov     eax, 0x2000
        lar     ebx, eax
        CHECK   nz

        ; ---- privilege 3 ----
        ; the user's code is in this payload: make the low 2 MiB user pages
        or      byte [PD], 4
        mov     rax, cr3
        mov     cr3, rax
        RUN_USER user_exit
        CHECK_EQ qword [f_vector], 0x81
        CHECK_EQ qword [f_cs], UCODE
        CHECK_EQ qword [f_ss], UDATA
        CHECK_EQ qword [f_rsp], USTACK
        CHECK_EQ qword [f_handler_rsp], RSP0 - 8 * 8
        CHECK_EQ word [f_handler_ss], 0         ; null, RPL 0
        mov     ax, ds                          ; IRET to an outer level cleared the kernel's data segments
        CHECK_EQ ax, 0
        mov     ax, KDATA
        mov     ds, ax
        mov     es, ax

        EXPECT_USER 13, 0, user_cli
        EXPECT_USER 13, 0, user_hlt
        EXPECT_USER 13, 0, user_cr0
        EXPECT_USER 13, 0, user_rdmsr
        EXPECT_USER 13, 0, user_lgdt
        EXPECT_USER 13, 0, user_invlpg
        EXPECT_USER 13, 0x21 * 8 + 2, user_int21
        EXPECT_USER 14, 5, user_read
        EXPECT_USER 14, 7, user_write
        RUN_USER user_jump
        CHECK_EQ qword [f_vector], 14
        CHECK_EQ qword [f_error], 0x15
        mov     eax, KDATA
        xor     ecx, ecx
        EXPECT_USER 13, KDATA, user_ds
        EXPECT_USER 13, 0, user_ss
        ; I/O permission
        EXPECT_USER 13, 0, user_in
        and     byte [io_map + (0xe9 >> 3)], ~(1 << (0xe9 & 7))
        RUN_USER user_in
        CHECK_EQ qword [f_vector], 0x81
        EXPECT_USER 13, 0, user_in16            ; two ports, one is not allowed
        or      byte [io_map + (0xe9 >> 3)], 1 << (0xe9 & 7)
        ; time stamp
        RUN_USER user_rdtsc
        CHECK_EQ qword [f_vector], 0x81
        mov     rax, cr4
        or      al, 4
        mov     cr4, rax
        EXPECT_USER 13, 0, user_rdtsc
        mov     rax, cr4
        and     al, ~4
        mov     cr4, rax
        ; UMIP
        RUN_USER user_sgdt
        CHECK_EQ qword [f_vector], 0x81
        mov     rax, cr4
        or      ah, 8
        mov     cr4, rax
        EXPECT_USER 13, 0, user_sgdt
        EXPECT_USER 13, 0, user_smsw
        mov     rax, cr4
        and     ah, ~8
        mov     cr4, rax
        ; POPF at privilege 3 changes neither IF nor IOPL, and does not fault
        RUN_USER user_popf
        CHECK_EQ qword [f_vector], 0x81
        mov     rax, [f_flags]
        and     eax, 0x3200
        CHECK_EQ eax, 0x200
        ; an interrupt from outside at privilege 3
        mov     qword [resume], .external
        mov     [resume_rsp], rsp
        mov     al, 0x31
        out     0x80, al
        push    UDATA
        push    USTACK
        push    0x202
        push    UCODE
        push    user_loop
        iretq
.external:
        CHECK_EQ qword [f_vector], 0x31
        CHECK_EQ qword [f_cs], UCODE

        ; far return to an outer level
        RESUME_AT .retf
        push    UDATA
        push    USTACK
        push    UCODE
        push    user_exit
        o64 retf
.retf:  CHECK_EQ qword [f_vector], 0x81
        CHECK_EQ qword [f_cs], UCODE
        mov     ax, KDATA
        mov     ds, ax
        mov     es, ax
        ; bad returns
        push    KDATA
        push    rsp
        push    2
        push    UCODE
        push    user_exit
        EXPECT_FAULT 13, KDATA, iretq           ; SS privilege
        mov     qword [rsp + 8], KDATA
        EXPECT_FAULT 13, KDATA, iretq           ; not code
        mov     qword [rsp + 8], 0
        EXPECT_FAULT 13, 0, iretq
        mov     qword [rsp + 8], KCODE
        mov     rax, 0x0000900000000000
        mov     [rsp], rax
        mov     qword [rsp + 32], KDATA
        EXPECT_FAULT 13, 0, iretq               ; RIP not canonical
        add     rsp, 40
        pushfq
        or      dword [rsp], 0x4000
        popfq                                   ; NT
        RESUME_AT .nt
        push    0
        push    0
        push    0
.nt_at: iretq
.nt:    CHECK_EQ qword [f_vector], 13
        CHECK_EQ qword [f_rip], .nt_at

        ; ---- SMEP, SMAP ----
        mov     rax, cr4
        or      eax, 1 << 20
        mov     rbx, user_ret
        call    rbx
        and     byte [PD + 8 * 3], ~0           ; (no change)
        ; the low 2 MiB hold this code and are user pages now: run SMEP's tests on a page of its own
        or      byte [PT + 10 * 8], 4
        mov     byte [PAGES + 0xa000], 0xc3
        and     byte [PD], ~4
        mov     rcx, cr3
        mov     cr3, rcx
        mov     cr4, rax
        mov     rbx, PAGES + 0xa000
        RESUME_AT .smep
        call    rbx
.smep:  CHECK_EQ qword [f_vector], 14
        CHECK_EQ qword [f_error], 0x11
        CHECK_EQ [f_rip], rbx
        mov     al, [rbx]                       ; data is allowed
        mov     rax, cr4
        or      eax, 1 << 21
        mov     cr4, rax
        EXPECT_FAULT 14, 1, mov al, [rbx]
        EXPECT_FAULT 14, 3, mov [rbx], al
        stac
        mov     al, [rbx]
        mov     [rbx], al
        clac
        EXPECT_FAULT 14, 1, mov al, [rbx]
        mov     rax, cr4
        and     eax, ~(3 << 20)
        mov     cr4, rax
        mov     al, [rbx]
        call    rbx
        or      byte [PD], 4
        mov     rcx, cr3
        mov     cr3, rcx

        ; ---- FS, GS ----
        mov     ecx, 0xc0000100
        mov     eax, PAGES + 0x100
        xor     edx, edx
        wrmsr
        mov     dword [PAGES + 0x108], 0xf00df00d
        CHECK_EQ dword [fs:8], 0xf00df00d
        mov     ecx, 0xc0000102
        mov     eax, PAGES + 0x200
        wrmsr
        mov     dword [PAGES + 0x208], 0xbeefbeef
        swapgs
        CHECK_EQ dword [gs:8], 0xbeefbeef
        swapgs
        mov     ecx, 0xc0000100
        mov     edx, 0x1000000
        EXPECT_FAULT 13, 0, wrmsr
        EXPECT_FAULT 6, 0, rdfsbase rax
        mov     rax, cr4
        or      eax, 1 << 16
        mov     cr4, rax
        rdfsbase rax
        CHECK_EQ rax, PAGES + 0x100
        mov     rax, PAGES + 0x108
        wrgsbase rax
        CHECK_EQ dword [gs:0], 0xf00df00d
        mov     rax, 1 << 56
        EXPECT_FAULT 13, 0, wrfsbase rax
        xor     eax, eax
        mov     fs, ax                          ; loading a null selector clears the base
        rdfsbase rax
        CHECK_EQ rax, 0

        ; ---- SYSCALL, SYSRET ----
        mov     ecx, 0xc0000081
        xor     eax, eax
        mov     edx, (UCODE32 & ~3) << 16 | KCODE
        wrmsr
        mov     ecx, 0xc0000082
        mov     rax, syscall_entry
        xor     edx, edx
        wrmsr
        mov     ecx, 0xc0000084
        mov     eax, 0x700 | 1                  ; TF, IF, DF, CF
        wrmsr
        RUN_USER user_syscall
        CHECK_EQ qword [f_vector], 0x81
        CHECK_EQ r12, user_syscall.after        ; RCX in the kernel
        CHECK_EQ r13, 0x203                     ; R11: CF and IF were set
        mov     rax, r14                        ; RFLAGS in the kernel
        and     eax, 0x701
        CHECK_EQ eax, 0
        CHECK_EQ r15, KDATA << 16 | KCODE
        CHECK_EQ qword [f_cs], UCODE
        CHECK_EQ qword [f_ss], UDATA
        test    qword [f_flags], 1              ; CF is back
        CHECK   nz
        mov     rcx, 0x0000800000000000
        mov     r11d, 2
        EXPECT_FAULT 13, 0, o64 sysret
        mov     ecx, 0xc0000080
        rdmsr
        and     eax, ~1
        wrmsr
        EXPECT_FAULT 6, 0, syscall
        EXPECT_USER 6, 0, user_syscall.at
        or      eax, 1
        mov     ecx, 0xc0000080
        rdmsr
        or      eax, 1
        wrmsr

        ; ---- a call gate from privilege 3 ----
        RUN_USER user_gate
        CHECK_EQ qword [f_vector], 0x81
        CHECK_EQ r12, UCODE                     ; caller's CS on the kernel stack
        CHECK_EQ r13, RSP0 - 4 * 8
        CHECK_EQ r14, 0                         ; SS is null in the gate's target

        ; ---- compatibility mode ----
        mov     rbx, rsp
        RESUME_AT .compat
        push    KCODE32
        push    .compat32
        o64 retf
        bits    32
.compat32:mov     eax, 0xffffffff
        inc     eax                             ; 40: INC, no REX here
        CHECK_EQ eax, 0
        mov     ax, cs
        CHECK_EQ ax, KCODE32
        int     0x81
        bits    64
.compat:
        CHECK_EQ qword [f_vector], 0x81
        CHECK_EQ qword [f_cs], KCODE32
        mov     rsp, rbx
        ; at privilege 3
        RESUME_AT .compat3
        push    UDATA
        push    USTACK
        push    0x202
        push    UCODE32
        push    user_exit
        iretq
.compat3:
        CHECK_EQ qword [f_vector], 0x81
        CHECK_EQ qword [f_cs], UCODE32
        CHECK_EQ qword [f_rsp], USTACK
        mov     ax, KDATA
        mov     ds, ax
        mov     es, ax
        ; limits count again in compatibility mode
        RESUME_AT .compat_limit
        push    KCODE16
        push    .compat16
        o64 retf
        bits    16
.compat16:
        a32 mov al, [es:dword 0x7000]           ; flat data: fine
        mov     si, KCODE16
        mov     es, si
.compat16_at:
        a32 mov al, [es:dword 0x10000]          ; limit 64K
        bits    64
.compat_limit:
        CHECK_EQ qword [f_vector], 13
        CHECK_EQ qword [f_rip], .compat16_at
        mov     ax, KDATA
        mov     es, ax

        ; ---- SYSENTER, SYSEXIT (Intel: in long mode too) ----
        xor     eax, eax
        cpuid
        cmp     ebx, 'Genu'
        jne     .no_sysenter
        mov     ecx, 0x174
        mov     eax, KCODE
        xor     edx, edx
        wrmsr
        mov     ecx, 0x175
        mov     eax, 0x51000
        wrmsr
        mov     ecx, 0x176
        mov     rax, sysenter_entry
        wrmsr
        RESUME_AT .sysenter
        push    UDATA
        push    USTACK
        push    0x202
        push    UCODE
        push    user_sysenter
        iretq
.sysenter:
        CHECK_EQ qword [f_vector], 0x80
        CHECK_EQ r12, 0x51000
        CHECK_EQ r13, KCODE
        test    r14d, 0x200
        CHECK   z
.no_sysenter:

        ; ---- control registers ----
        mov     rax, cr0
        mov     rbx, rax
        btr     rax, 0
        EXPECT_FAULT 13, 0, mov cr0, rax        ; PG without PE
        mov     rax, rbx
        btr     rax, 31
        EXPECT_FAULT 13, 0, mov cr0, rax        ; paging cannot be left from 64-bit code
        mov     rax, rbx
        bts     rax, 32
        EXPECT_FAULT 13, 0, mov cr0, rax
        mov     rax, rbx
        or      eax, 1 << 29
        and     eax, ~(1 << 30)
        EXPECT_FAULT 13, 0, mov cr0, rax        ; NW without CD
        mov     rax, cr4
        mov     rbx, rax
        bts     rax, 31
        EXPECT_FAULT 13, 0, mov cr4, rax
        mov     rax, rbx
        btr     rax, 5
        EXPECT_FAULT 13, 0, mov cr4, rax        ; PAE
        mov     rax, rbx
        btc     rax, 12
        EXPECT_FAULT 13, 0, mov cr4, rax        ; LA57
        mov     rax, 1 << 52
        EXPECT_FAULT 13, 0, mov cr3, rax
        mov     eax, 16
        EXPECT_FAULT 13, 0, mov cr8, rax
        mov     eax, 5
        mov     cr8, rax
        mov     rax, cr8
        CHECK_EQ rax, 5
        xor     eax, eax
        mov     cr8, rax
        db      0xeb, 0x00
        RESUME_AT .cr1
.cr1_at:
        db      0x0f, 0x20, 0xc8                ; MOV EAX, CR1
.cr1:   CHECK_EQ qword [f_vector], 6
        mov     ecx, 0xc0000080
        rdmsr
        xor     ah, 1
        EXPECT_FAULT 13, 0, wrmsr               ; LME under paging
        rdmsr
        or      eax, 2
        EXPECT_FAULT 13, 0, wrmsr               ; reserved
        mov     ecx, 0x277
        mov     eax, 0x02020202
        mov     edx, eax
        EXPECT_FAULT 13, 0, wrmsr               ; no memory type 2
        mov     ecx, 0xfe
        rdmsr
        CHECK_EQ eax, 0x508
        EXPECT_FAULT 13, 0, wrmsr
        mov     ecx, 0x12345678
        EXPECT_FAULT 13, 0, rdmsr
        ; PCID
        mov     rax, cr4
        bts     rax, 17
        mov     cr4, rax
        mov     rbx, cr3
        lea     rax, [rbx + 7]
        mov     cr3, rax
        mov     rcx, cr3
        CHECK_EQ rcx, rax
        bts     rax, 63
        mov     cr3, rax
        mov     rcx, cr3
        CHECK_EQ ecx, eax
        shr     rcx, 32
        CHECK_EQ rcx, 0
        mov     cr3, rbx
        xor     ecx, ecx
        invpcid rcx, [inv_descriptor]
        mov     ecx, 4
        EXPECT_FAULT 13, 0, invpcid rcx, [inv_descriptor]
        mov     rax, cr4
        btr     rax, 17
        mov     cr4, rax

        ; ---- debug registers ----
        mov     rax, 1 << 40
        EXPECT_FAULT 13, 0, mov dr7, rax
        EXPECT_FAULT 13, 0, mov dr6, rax
        mov     dr0, rax
        mov     rbx, dr0
        CHECK_EQ rax, rbx
        mov     eax, 0xffff4ff0
        mov     dr6, rax
        mov     rax, dr4                        ; alias of DR6 without CR4.DE
        CHECK_EQ eax, 0xffff4ff0
        mov     rax, cr4
        or      al, 8
        mov     cr4, rax
        EXPECT_FAULT 6, 0, mov rax, dr4
        mov     eax, 0x2400                     ; GD
        mov     dr7, rax
        EXPECT_FAULT 1, 0, mov rax, dr0
        mov     rax, dr6                        ; GD is clear in the handler
        test    ah, 0x20                        ; BD
        CHECK   nz

        ; ---- single step: over INT it does not trap ----
        mov     qword [f_count], 0
        pushfq
        or      dword [rsp], 0x100
        popfq
        nop
        nop
        int     0x81
        nop
        pushfq
        and     dword [rsp], ~0x100
        popfq
        nop
        CHECK_EQ qword [f_count], 7             ; 2 nops, INT itself, nop, pushfq, and, popfq

        ; ---- HLT and an interrupt at privilege 0 ----
        mov     al, 0x32
        out     0x80, al
        RESUME_AT .halt
        sti
        hlt
.halt_rip:
        END_WITH 9999
.halt:  cli
        CHECK_EQ qword [f_vector], 0x32
        CHECK_EQ qword [f_rip], .halt_rip

        ; ---- out of long mode and back to protected mode without paging ----
        push    KCODE32
        push    leave_long
        o64 retf
        bits    32
leave_long:
        mov     eax, cr0
        btr     eax, 31
        mov     cr0, eax
        mov     ecx, 0xc0000080
        rdmsr
        test    ah, 4
        CHECK   z
        test    ah, 1
        CHECK   nz
        mov     ax, KDATA
        mov     ss, ax
        mov     ds, ax
        END_WITH 0

        bits    64
; ---- privilege 3 code ----
user_exit:      int 0x81
user_cli:       cli
user_hlt:       hlt
user_cr0:       mov rax, cr0
user_rdmsr:     rdmsr
user_lgdt:      lgdt [gdtr]
user_invlpg:    invlpg [0]
user_int21:     int 0x21
user_read:      mov al, [PAGES + 0x1000]
user_write:     mov [PAGES + 0x1000], al
user_jump:      mov rax, PAGES
                jmp rax
user_ds:        db 0x8e, 0xd8                   ; MOV DS, AX with AX = KDATA (set by the kernel)
user_ss:        db 0x8e, 0xd1                   ; MOV SS, CX with CX = 0
user_in:        in al, 0xe9
                int 0x81
user_in16:      in ax, 0xe9
                int 0x81
user_rdtsc:     rdtsc
                int 0x81
user_sgdt:      sgdt [rsp - 16]
                int 0x81
user_smsw:      smsw eax
user_popf:      push 0x3002
                popfq
                int 0x81
user_loop:      jmp user_loop
user_ret:       ret
user_syscall:   stc
.at:            syscall
.after:         int 0x81
syscall_entry:  mov r12, rcx
                mov r13, r11
                pushfq
                pop r14
                mov r15d, ss
                shl r15d, 16
                mov ax, cs
                mov r15w, ax
                o64 sysret
user_gate:      call far [gate_pointer]
                int 0x81
gate_target:    mov r12, [rsp + 8]
                mov r13, rsp
                mov r14d, ss
                o64 retf
user_sysenter:  mov edx, user_back
                mov ecx, USTACK
                sysenter
user_back:      int 0x80
sysenter_entry: mov r12, rsp
                mov r13d, cs
                pushfq
                pop r14
                o64 sysexit
gate_pointer:   dq 0
                dw GATE | 3
inv_descriptor: dq 0, PAGES
