/*
 * From mode to mode: writes to CR0, CR4, EFER and CR3 in every mode that there is, with every combination of the bits
 * that belong to modes, and the checks of SDM 2B MOV (control registers), 3A 2.5, 4.1.2, 4.4.1, 9.8.5 and 9.9 written a
 * second time. What PAE paging loads: the four page-directory-pointer entries, each reserved bit, and which writes load
 * them at all.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "machine.h"
#include "util/compiler.h"
#include "x86/system/control.h"

enum { ENOUGH = 10, PHYSICAL_BITS = 40, PAE_ROOT = 0x14000, OLD_ROOT = 0x15000 };

static struct machine machine;

/* Where a write begins. */
struct start {
    const char *name;
    enum machine_mode mode;
    uint64_t cr0, cr4, efer; /* in addition to, or for long mode instead of, what machine_enter sets */
    bool old_tss;
};

static const struct start starts[] = {
    {"real mode", MACHINE_REAL, 0, 0, 0, false},
    {"real mode, PAE", MACHINE_REAL, 0, CR4_PAE, 0, false},
    {"real mode, PAE and LME", MACHINE_REAL, 0, CR4_PAE, EFER_LME, false},
    {"16-bit code", MACHINE_PROTECTED16, CR0_PE, 0, 0, false},
    {"32-bit code", MACHINE_PROTECTED32, CR0_PE, 0, 0, false},
    {"32-bit code, LME", MACHINE_PROTECTED32, CR0_PE, 0, EFER_LME, false},
    {"32-bit code, PAE and LME", MACHINE_PROTECTED32, CR0_PE, CR4_PAE, EFER_LME, false},
    {"16-bit code, PAE and LME", MACHINE_PROTECTED16, CR0_PE, CR4_PAE, EFER_LME, false},
    {"32-bit code, PAE, LME, a 16-bit TSS", MACHINE_PROTECTED32, CR0_PE, CR4_PAE, EFER_LME, true},
    {"32-bit code, 32-bit paging", MACHINE_PROTECTED32, CR0_PE | CR0_PG, 0, 0, false},
    {"32-bit code, PAE paging", MACHINE_PROTECTED32, CR0_PE | CR0_PG, CR4_PAE, 0, false},
    {"16-bit code, PAE paging", MACHINE_PROTECTED16, CR0_PE | CR0_PG, CR4_PAE, 0, false},
    {"16-bit compatibility mode", MACHINE_COMPATIBILITY16, CR0_PE | CR0_PG, CR4_PAE, EFER_LME | EFER_LMA, false},
    {"32-bit compatibility mode", MACHINE_COMPATIBILITY32, CR0_PE | CR0_PG, CR4_PAE, EFER_LME | EFER_LMA, false},
    {"32-bit compatibility mode, PCID", MACHINE_COMPATIBILITY32, CR0_PE | CR0_PG, CR4_PAE | CR4_PCIDE,
     EFER_LME | EFER_LMA, false},
    {"64-bit mode", MACHINE_LONG, CR0_PE | CR0_PG, CR4_PAE, EFER_LME | EFER_LMA, false},
    {"64-bit mode, PCID", MACHINE_LONG, CR0_PE | CR0_PG, CR4_PAE | CR4_PCIDE, EFER_LME | EFER_LMA, false},
};

/* MOV CR0, EAX; MOV CR3, EAX; MOV CR4, EAX; WRMSR. */
enum write { CR0, CR3, CR4, EFER, WRITES };
static const uint8_t write_code[WRITES][3] = {{0x0f, 0x22, 0xc0}, {0x0f, 0x22, 0xd8}, {0x0f, 0x22, 0xe0}, {0x0f, 0x30}};
static uint16_t code_at[WRITES];

static int set_up(void **unused)
{
    (void)unused;
    if (!machine_create(&machine))
        return -1;
    for (unsigned i = 0; i < WRITES; i++)
        code_at[i] = machine_add_code(&machine, write_code[i], i == EFER ? 2 : 3);
    return 0;
}

static int tear_down(void **unused)
{
    (void)unused;
    machine_destroy(&machine);
    return 0;
}

/* Roots that map memory one to one whatever the mode. */
static void put_roots(const struct start *start)
{
    const bool is_long = start->efer & EFER_LMA, pae = start->cr4 & CR4_PAE;

    for (unsigned i = 0; i < 512; i++)
        machine_put(&machine, 0x16000 + i * 8, i * 0x200000ull | 0x87, 8); /* a directory of 2 MiB pages */
    for (unsigned i = 0; i < 4; i++)
        machine_put(&machine, PAE_ROOT + i * 8, 0x16000 | 1, 8);
    for (unsigned i = 0; i < 1024; i++)
        machine_put(&machine, OLD_ROOT + i * 4, i * 0x400000 | 0x87, 4); /* 4 MiB pages: need CR4.PSE */
    machine.guest.cpu->cr3 = is_long ? MACHINE_PML4 : pae ? PAE_ROOT : OLD_ROOT;
}

static void begin(const struct start *start)
{
    struct cpu *cpu = machine.guest.cpu;

    machine_enter(&machine, start->mode, 0);
    put_roots(start);
    cpu->cr0 = start->cr0 | CR0_ET;
    cpu->cr4 = start->cr4 | (start->cr0 & CR0_PG && !(start->cr4 & CR4_PAE) ? CR4_PSE : 0);
    cpu->efer = start->efer;
    if (start->old_tss)
        cpu->segment[SEG_TR] =
            (struct segment){.base = MACHINE_TSS, .limit = 43, .selector = MACHINE_TSS_SELECTOR, .attributes = 0x83};
    cpu_control_changed(cpu);
}

/* ---- what is allowed ---- */

static bool is_64(const struct start *start)
{
    return start->mode == MACHINE_LONG;
}

static bool allows_cr0(const struct start *start, uint64_t value)
{
    const bool paging = value & CR0_PG, was = start->cr0 & CR0_PG;

    if (value >> 32 || (paging && !(value & CR0_PE)) || ((value & CR0_NW) && !(value & CR0_CD)))
        return false;
    if (paging && !was && (start->efer & EFER_LME))
        return (start->cr4 & CR4_PAE) && !is_64(start) && !start->old_tss;
    return paging || !was || (!is_64(start) && !(start->cr4 & CR4_PCIDE));
}

static bool allows_cr4(const struct start *start, uint64_t value)
{
    const uint64_t absent =
        BIT64(13) | BIT64(14) | BIT64(15) | BIT64(19) | BIT64(23) | BIT64(31); /* VMXE, SMXE, -, KL, CET, - */
    const bool is_long = start->efer & EFER_LMA;

    if (value & absent || value >> 32)
        return false;
    if (is_long && (!(value & CR4_PAE) || (value & CR4_LA57)))
        return false;
    if (!is_long && (start->cr0 & CR0_PG) && (value & ~start->cr4 & CR4_PAE))
        return false; /* what CR3 leads to are no entries for PAE paging: test_reserved_bits_of_pdptes */
    return !(value & CR4_PCIDE) || (start->cr4 & CR4_PCIDE) || is_long; /* CR3[11:0] is 0 here */
}

static bool allows_efer(const struct start *start, uint64_t value)
{
    const uint64_t there = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;

    return !(value & ~there) && (!(start->cr0 & CR0_PG) || !((value ^ start->efer) & EFER_LME));
}

/* ---- trying ---- */

static struct outcome try_write(const struct start *start, enum write write, uint64_t value)
{
    struct cpu *cpu = machine.guest.cpu;

    begin(start);
    cpu->gpr[REG_RAX].q = write == EFER ? (uint32_t)value : value;
    cpu->gpr[REG_RDX].q = value >> 32;
    cpu->gpr[REG_RCX].q = 0xc0000080;
    return machine_step(&machine, code_at[write]);
}

static bool is_right(const struct start *start, enum write write, uint64_t value, bool allowed)
{
    const struct outcome got = try_write(start, write, value);
    const struct cpu *cpu = machine.guest.cpu;
    const uint64_t cr0_mask = CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | CR0_PG;
    uint64_t cr0 = start->cr0 | CR0_ET,
             cr4 = start->cr4 | (start->cr0 & CR0_PG && !(start->cr4 & CR4_PAE) ? CR4_PSE : 0), efer = start->efer;

    if (allowed && write == CR0)
        cr0 = (value & cr0_mask) | CR0_ET;
    if (allowed && write == CR4)
        cr4 = value;
    if (allowed && write == EFER)
        efer = value & ~EFER_LMA;
    efer = (efer & ~EFER_LMA) | (cr0 & CR0_PG && efer & EFER_LME ? EFER_LMA : 0);
    const bool good = got.vector == (allowed ? OUTCOME_DONE : VECTOR_GP) && got.error == 0 && cpu->cr0 == cr0 &&
                      cpu->cr4 == cr4 && cpu->efer == efer;
    if (!good)
        print_error("%s, write %d of %#llx: vector %d error %#x CR0 %#llx CR4 %#llx EFER %#llx; expected %s, %#llx "
                    "%#llx %#llx\n",
                    start->name, write, (unsigned long long)value, got.vector, got.error, (unsigned long long)cpu->cr0,
                    (unsigned long long)cpu->cr4, (unsigned long long)cpu->efer, allowed ? "no fault" : "#GP",
                    (unsigned long long)cr0, (unsigned long long)cr4, (unsigned long long)efer);
    return good;
}

/* Every subset of some bits. */
static unsigned try_subsets(const struct start *start, enum write write, const uint64_t *bits, unsigned count,
                            bool (*allows)(const struct start *, uint64_t))
{
    unsigned wrong = 0;

    for (unsigned subset = 0; subset < 1u << count && wrong < ENOUGH; subset++) {
        uint64_t value = 0;
        for (unsigned i = 0; i < count; i++)
            value |= subset >> i & 1 ? bits[i] : 0;
        if (write != EFER && !is_64(start) && value >> 32)
            continue; /* 32-bit operand */
        wrong += !is_right(start, write, value, allows(start, value));
    }
    return wrong;
}

static void test_cr0(void **unused)
{
    static const uint64_t bits[] = {CR0_PE, CR0_PG,   CR0_NW,    CR0_CD,    CR0_WP,
                                    CR0_TS, BIT64(6), BIT64(28), BIT64(32), BIT64(63)};
    unsigned wrong = 0;

    (void)unused;
    for (unsigned i = 0; i < array_size(starts); i++)
        wrong += try_subsets(&starts[i], CR0, bits, array_size(bits), allows_cr0);
    assert_int_equal(wrong, 0);
}

static void test_cr4(void **unused)
{
    static const uint64_t bits[] = {CR4_PAE,    CR4_PSE,   CR4_PGE,   CR4_PCIDE, CR4_SMEP, CR4_UMIP,
                                    CR4_OSFXSR, BIT64(13), BIT64(15), BIT64(23), BIT64(32)};
    unsigned wrong = 0;

    (void)unused;
    for (unsigned i = 0; i < array_size(starts); i++)
        wrong += try_subsets(&starts[i], CR4, bits, array_size(bits), allows_cr4);
    assert_int_equal(wrong, 0);
}

static void test_efer(void **unused)
{
    static const uint64_t bits[] = {EFER_SCE, EFER_LME,  EFER_LMA,  EFER_NXE, BIT64(1),
                                    BIT64(9), BIT64(12), BIT64(16), BIT64(32)};
    unsigned wrong = 0;

    (void)unused;
    for (unsigned i = 0; i < array_size(starts); i++)
        wrong += try_subsets(&starts[i], EFER, bits, array_size(bits), allows_efer);
    assert_int_equal(wrong, 0);
}

/* PCIDE needs CR3[11:0] = 0; CR3 has no bits beyond the physical addresses, but for 63 with PCID, which is not kept. */
static void test_cr3(void **unused)
{
    (void)unused;
    for (unsigned i = 0; i < array_size(starts); i++) {
        const struct start *start = &starts[i];
        const bool pcid = start->cr4 & CR4_PCIDE;
        for (unsigned bit = 0; bit < 64; bit++) {
            if (!is_64(start))
                break;
            const uint64_t value = MACHINE_PML4 | BIT64(bit);
            const bool allowed = bit < PHYSICAL_BITS || (bit == 63 && pcid);
            assert_int_equal(try_write(start, CR3, value).vector, allowed ? OUTCOME_DONE : VECTOR_GP);
            assert_int_equal(machine.guest.cpu->cr3, allowed ? value & ~BIT64(63) : MACHINE_PML4);
        }
        if (!is_64(start) || pcid)
            continue;
        for (unsigned bit = 0; bit < 12; bit++) {
            begin(start);
            machine.guest.cpu->cr3 |= BIT64(bit);
            machine.guest.cpu->gpr[REG_RAX].q = CR4_PAE | CR4_PCIDE;
            assert_int_equal(machine_step(&machine, code_at[CR4]).vector, VECTOR_GP);
        }
    }
}

/* ---- PAE: the four entries ---- */

/* A write that loads them, or does not. */
static const struct load {
    const char *name;
    uint64_t cr0, cr4; /* before */
    enum write write;
    uint64_t value;
    bool loads;
} loads[] = {
#define PE_PG (CR0_PE | CR0_PG)
    {"MOV CR3", PE_PG, CR4_PAE, CR3, PAE_ROOT, true},
    {"MOV CR3 to an address that is not aligned to 4096", PE_PG, CR4_PAE, CR3, PAE_ROOT | 0x18,
     true}, /* bits 4:3 are PCD and PWT */
    {"paging on", CR0_PE, CR4_PAE, CR0, PE_PG, true},
    {"CD", PE_PG, CR4_PAE, CR0, PE_PG | CR0_CD, true},
    {"CD and NW", PE_PG, CR4_PAE, CR0, PE_PG | CR0_CD | CR0_NW, true},
    {"WP, TS", PE_PG, CR4_PAE, CR0, PE_PG | CR0_WP | CR0_TS, false},
    {"paging off", PE_PG, CR4_PAE, CR0, CR0_PE, false},
    {"PAE on", PE_PG, CR4_PSE, CR4, CR4_PSE | CR4_PAE, true},
    {"PAE on without paging", CR0_PE, 0, CR4, CR4_PAE, false},
    {"PAE off", PE_PG, CR4_PAE, CR4, CR4_PSE, false},
    {"PSE", PE_PG, CR4_PAE, CR4, CR4_PAE | CR4_PSE, true},
    {"PGE", PE_PG, CR4_PAE, CR4, CR4_PAE | CR4_PGE, true},
    {"SMEP", PE_PG, CR4_PAE, CR4, CR4_PAE | CR4_SMEP, true},
    {"the same", PE_PG, CR4_PAE, CR4, CR4_PAE, false},
    {"DE, UMIP", PE_PG, CR4_PAE, CR4, CR4_PAE | CR4_DE | CR4_UMIP, false},
};

/*
 * From 32-bit paging: the first eight of its entries are the four of PAE paging. The code is in the ninth's 4 MiB,
 * which PAE paging maps by the first.
 */
static uint32_t share_root(void)
{
    enum { NINTH = 8 };

    machine_put(&machine, PAE_ROOT + NINTH * 4, 0x87, 4);
    machine_put(&machine, 0x16000 + NINTH * 2 * 8, 0x87, 8);
    return NINTH << 22;
}

static struct outcome try_load(const struct load *load, unsigned entry, uint64_t value)
{
    const struct start start = {"PAE", MACHINE_PROTECTED32, load->cr0, load->cr4, 0, false};
    struct cpu *cpu = machine.guest.cpu;

    begin(&start);
    const uint32_t base = load->cr4 & CR4_PAE ? 0 : share_root();
    cpu->cr3 = PAE_ROOT;
    cpu_control_changed(cpu);
    machine_put(&machine, PAE_ROOT + entry * 8, value, 8);
    cpu->gpr[REG_RAX].q = load->value;
    return machine_step(&machine, (load->cr0 & CR0_PG ? base : 0) + code_at[load->write]);
}

static void test_reserved_bits_of_pdptes(void **unused)
{
    unsigned wrong = 0;

    (void)unused;
    for (unsigned i = 0; i < array_size(loads); i++)
        for (unsigned entry = 0; entry < 4; entry++)
            for (unsigned bit = 1; bit < 64; bit++)
                for (unsigned present = 0; present < 2; present++) {
                    const struct load *load = &loads[i];
                    const bool reserved = bit == 1 || bit == 2 || (bit >= 5 && bit <= 8) || bit >= PHYSICAL_BITS;
                    const bool refused = load->loads && reserved && present;
                    if (!present && entry == 0)
                        continue; /* the code is there */
                    const struct outcome got = try_load(load, entry, BIT64(bit) | 0x16000 | present);
                    if (got.vector == (refused ? VECTOR_GP : OUTCOME_DONE) && got.error == 0)
                        continue;
                    print_error("%s, entry %u, bit %u, P %u: vector %d, expected %s\n", load->name, entry, bit, present,
                                got.vector, refused ? "#GP" : "none");
                    wrong++;
                }
    assert_int_equal(wrong, 0);
}

/* They are what translates until they are loaded again: memory behind CR3 does not count. */
static void test_pdptes_are_kept(void **unused)
{
    static const uint8_t read[] = {0x8a, 0x03}; /* MOV AL, [EBX] */
    const uint16_t read_at = machine_add_code(&machine, read, sizeof(read));
    const struct start start = {"PAE", MACHINE_PROTECTED32, CR0_PE | CR0_PG, CR4_PAE, 0, false};
    struct cpu *cpu = machine.guest.cpu;

    (void)unused;
    for (unsigned entry = 1; entry < 4; entry++) {
        begin(&start);
        cpu->gpr[REG_RBX].q = entry << 30;
        assert_int_equal(machine_step(&machine, read_at).vector, OUTCOME_DONE);
        machine_put(&machine, PAE_ROOT + entry * 8, 0, 8);
        cpu_flush_page(cpu, entry << 30);
        assert_int_equal(machine_step(&machine, read_at).vector, OUTCOME_DONE);
        cpu->gpr[REG_RAX].q = PAE_ROOT;
        assert_int_equal(machine_step(&machine, code_at[CR3]).vector, OUTCOME_DONE);
        assert_int_equal(machine_step(&machine, read_at).vector, VECTOR_PF);
        assert_int_equal(cpu->fault.address, entry << 30);
    }
}

/* ---- LMSW, CLTS ---- */

static void test_lmsw(void **unused)
{
    static const uint8_t lmsw[] = {0x0f, 0x01, 0xf0}, clts[] = {0x0f, 0x06};
    const uint16_t lmsw_at = machine_add_code(&machine, lmsw, sizeof(lmsw)),
                   clts_at = machine_add_code(&machine, clts, sizeof(clts));

    (void)unused;
    for (unsigned i = 0; i < array_size(starts); i++)
        for (unsigned word = 0; word < 0x10000; word += 0x1fff) /* each bit, and all low ones */
            for (unsigned low = 0; low < 16; low++) {
                const uint64_t value = word ^ low;
                struct cpu *cpu = machine.guest.cpu;
                begin(&starts[i]);
                cpu->gpr[REG_RAX].q = value;
                const uint64_t before = cpu->cr0;
                assert_int_equal(machine_step(&machine, lmsw_at).vector, OUTCOME_DONE);
                assert_int_equal(cpu->cr0,
                                 (before & ~0xeull) | (value & 0xf) | (before & CR0_PE)); /* PE is never cleared */
                assert_int_equal(machine_step(&machine, clts_at).vector, OUTCOME_DONE);
                assert_int_equal(cpu->cr0, ((before & ~0xeull) | (value & 0xf) | (before & CR0_PE)) & ~CR0_TS);
            }
}

int main(void)
{
#define CASE(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        CASE(test_cr0),
        CASE(test_cr4),
        CASE(test_efer),
        CASE(test_cr3),
        CASE(test_reserved_bits_of_pdptes),
        CASE(test_pdptes_are_kept),
        CASE(test_lmsw),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
