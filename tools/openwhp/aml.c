/* Writes AML; see aml.h. Opcodes are named as in ACPI 6.4, table 20.1. */
#include "aml.h"

#include <string.h>

#include "bytes.h"

enum {
    ZERO_OP = 0x00,
    ONE_OP = 0x01,
    NAME_OP = 0x08,
    BYTE_PREFIX = 0x0A,
    WORD_PREFIX = 0x0B,
    DWORD_PREFIX = 0x0C,
    STRING_PREFIX = 0x0D,
    QWORD_PREFIX = 0x0E,
    SCOPE_OP = 0x10,
    BUFFER_OP = 0x11,
    PACKAGE_OP = 0x12,
    EXT_OP_PREFIX = 0x5B,
    DEVICE_OP = 0x82,
    LENGTH_BYTES = 3,
    BUFFER_SIZE_BYTES = 3, /* WordPrefix and a word */
};

void aml_init(struct aml *aml, uint8_t *bytes, size_t capacity)
{
    *aml = (struct aml){.bytes = bytes, .capacity = capacity};
}

static void put_bytes(struct aml *aml, const void *bytes, size_t count)
{
    if (count > aml->capacity - aml->size) {
        aml->overflow = true;
        return;
    }
    memcpy(aml->bytes + aml->size, bytes, count);
    aml->size += count;
}

static void put_byte(struct aml *aml, unsigned value)
{
    uint8_t byte = (uint8_t)value;
    put_bytes(aml, &byte, 1);
}

static void put_word(struct aml *aml, unsigned value)
{
    uint16_t word = (uint16_t)value;
    put_bytes(aml, &word, 2);
}

static void put_dword(struct aml *aml, uint32_t value) { put_bytes(aml, &value, 4); }

static void put_name(struct aml *aml, const char *name) { put_bytes(aml, name, strlen(name)); }

static void open_length(struct aml *aml)
{
    if (aml->depth == AML_DEPTH) {
        aml->overflow = true;
        return;
    }
    aml->open[aml->depth++] = aml->size;
    put_bytes(aml, (const uint8_t[LENGTH_BYTES]){0}, LENGTH_BYTES);
}

/* The three-byte form of PkgLength (section 20.2.4): four bits, then two bytes; it counts itself. */
void aml_end(struct aml *aml)
{
    if (aml->depth == 0 || aml->overflow) {
        aml->overflow = true;
        return;
    }
    size_t at = aml->open[--aml->depth], length = aml->size - at;
    aml->bytes[at] = (uint8_t)(0x80 | (length & 0x0f));
    aml->bytes[at + 1] = (uint8_t)(length >> 4);
    aml->bytes[at + 2] = (uint8_t)(length >> 12);
}

void aml_begin_scope(struct aml *aml, const char *name)
{
    put_byte(aml, SCOPE_OP);
    open_length(aml);
    put_name(aml, name);
}

void aml_begin_device(struct aml *aml, const char *name)
{
    put_byte(aml, EXT_OP_PREFIX);
    put_byte(aml, DEVICE_OP);
    open_length(aml);
    put_name(aml, name);
}

void aml_begin_package(struct aml *aml, unsigned elements)
{
    put_byte(aml, PACKAGE_OP);
    open_length(aml);
    put_byte(aml, elements);
}

void aml_name(struct aml *aml, const char *name)
{
    put_byte(aml, NAME_OP);
    put_name(aml, name);
}

void aml_integer(struct aml *aml, uint64_t value)
{
    if (value <= 1) {
        put_byte(aml, value == 0 ? ZERO_OP : ONE_OP);
    } else if (value <= UINT8_MAX) {
        put_byte(aml, BYTE_PREFIX);
        put_byte(aml, (unsigned)value);
    } else if (value <= UINT16_MAX) {
        put_byte(aml, WORD_PREFIX);
        put_word(aml, (unsigned)value);
    } else if (value <= UINT32_MAX) {
        put_byte(aml, DWORD_PREFIX);
        put_dword(aml, (uint32_t)value);
    } else {
        put_byte(aml, QWORD_PREFIX);
        put_bytes(aml, &value, sizeof value);
    }
}

void aml_string(struct aml *aml, const char *text)
{
    put_byte(aml, STRING_PREFIX);
    put_bytes(aml, text, strlen(text) + 1);
}

static uint32_t hex_digit(char c) { return (uint32_t)(c <= '9' ? c - '0' : c - 'A' + 10); }

/* Three letters of five bits and four hexadecimal digits, stored with the high byte first. */
void aml_eisa_id(struct aml *aml, const char *id)
{
    uint32_t value = (uint32_t)(id[0] - 0x40) << 26 | (uint32_t)(id[1] - 0x40) << 21 |
                     (uint32_t)(id[2] - 0x40) << 16;
    for (unsigned i = 0; i < 4; i++)
        value |= hex_digit(id[3 + i]) << (12 - 4 * i);
    put_byte(aml, DWORD_PREFIX);
    put_dword(aml, __builtin_bswap32(value));
}

void aml_begin_resources(struct aml *aml)
{
    put_byte(aml, BUFFER_OP);
    open_length(aml);
    put_byte(aml, WORD_PREFIX); /* the buffer's size, patched at the end */
    put_word(aml, 0);
}

/* I/O port descriptor (section 6.4.2.5): 16-bit decode, fixed place. */
void aml_io(struct aml *aml, uint16_t first, uint8_t size)
{
    put_byte(aml, 0x47);
    put_byte(aml, 1);
    put_word(aml, first);
    put_word(aml, first);
    put_byte(aml, 1);
    put_byte(aml, size);
}

/* IRQ descriptor without flags (section 6.4.2.1): edge, active high. */
void aml_irq(struct aml *aml, uint8_t line)
{
    put_byte(aml, 0x22);
    put_word(aml, 1u << line);
}

/* Word address space descriptor (section 6.4.3.5.3): a window the bridge passes on. */
static void word_window(struct aml *aml, unsigned type, unsigned type_flags, uint16_t first, uint16_t last)
{
    put_byte(aml, 0x88);
    put_word(aml, 13);
    put_byte(aml, type);
    put_byte(aml, 0x0C); /* minimum and maximum are fixed, positive decode */
    put_byte(aml, type_flags);
    put_word(aml, 0);
    put_word(aml, first);
    put_word(aml, last);
    put_word(aml, 0);
    put_word(aml, (unsigned)last - first + 1);
}

void aml_bus_range(struct aml *aml, uint16_t first, uint16_t last) { word_window(aml, 2, 0, first, last); }

void aml_io_window(struct aml *aml, uint16_t first, uint16_t last) { word_window(aml, 1, 3, first, last); }

/* Double word address space descriptor (section 6.4.3.5.2): memory that may be written, not cached. */
void aml_memory_window(struct aml *aml, uint32_t first, uint32_t last)
{
    put_byte(aml, 0x87);
    put_word(aml, 23);
    put_byte(aml, 0);
    put_byte(aml, 0x0C);
    put_byte(aml, 1);
    put_dword(aml, 0);
    put_dword(aml, first);
    put_dword(aml, last);
    put_dword(aml, 0);
    put_dword(aml, last - first + 1);
}

void aml_end_resources(struct aml *aml)
{
    put_byte(aml, 0x79); /* end tag; checksum 0 says "not checked" */
    put_byte(aml, 0);
    if (aml->depth == 0 || aml->overflow) {
        aml->overflow = true;
        return;
    }
    size_t at = aml->open[aml->depth - 1] + LENGTH_BYTES;
    put16(aml->bytes + at + 1, (uint16_t)(aml->size - at - BUFFER_SIZE_BYTES));
    aml_end(aml);
}
