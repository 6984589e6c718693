#include "prefix_forms.h"

#include <stdlib.h>
#include <string.h>

/* ---- prefixes ---- */

struct part {
    uint8_t bytes[3], length;
};

static const struct part repeats[] = {
    {{0}, 0}, {{0xf0}, 1}, {{0xf2}, 1}, {{0xf3}, 1}, {{0xf0, 0xf2}, 2}, {{0xf2, 0xf0}, 2}, {{0xf0, 0xf3}, 2}, {{0xf3, 0xf0}, 2},
    {{0xf2, 0xf3}, 2}, {{0xf3, 0xf2}, 2}};
static const struct part sizes[] = {{{0}, 0}, {{0x66}, 1}};
static const struct part addresses[] = {{{0}, 0}, {{0x67}, 1}};
static const struct part segments[] = {{{0}, 0}, {{0x26}, 1}, {{0x2e}, 1}, {{0x36}, 1}, {{0x3e}, 1}, {{0x64}, 1}, {{0x65}, 1}};
/* Behind the others; behind each other (the last counts); in front of the others (it does not count). */
static const struct part rexes[] = {{{0}, 0}, {{0x40}, 1}, {{0x48}, 1}, {{0x4d}, 1}, {{0x48, 0x40}, 2}, {{0x42, 0x49}, 2}};
static const uint8_t orders[][4] = {{0, 1, 2, 3}, {3, 2, 1, 0}, {1, 3, 0, 2}, {2, 0, 3, 1}};

static void add(struct prefix_form *form, const struct part *part, bool twice)
{
    for (unsigned n = 0; n < 1u + twice; n++) {
        memcpy(form->bytes + form->length, part->bytes, part->length);
        form->length = (uint8_t)(form->length + part->length);
    }
}

static int compare(const void *a, const void *b)
{
    const struct prefix_form *x = a, *y = b;

    return x->length != y->length ? x->length - y->length : memcmp(x->bytes, y->bytes, PREFIX_MOST);
}

/* One choice of each group. What is too long for an instruction behind it is left out. */
static unsigned arrange(struct prefix_form *forms, unsigned count, const struct part *const parts[4], const struct part *rex)
{
    for (unsigned order = 0; order < sizeof(orders) / sizeof(orders[0]); order++)
        for (unsigned doubled = 0; doubled < 5; doubled++)
            for (unsigned rex_first = 0; rex_first < (rex->length ? 2u : 1u); rex_first++) {
                struct prefix_form form = {.length = 0};
                if ((doubled < 4 && parts[doubled]->length != 1) || (doubled < 4 && order > 0))
                    continue;
                if (rex_first)
                    add(&form, rex, false);
                for (unsigned i = 0; i < 4; i++)
                    add(&form, parts[orders[order][i]], doubled == orders[order][i]);
                if (!rex_first)
                    add(&form, rex, false);
                forms[count++] = form;
            }
    return count;
}

unsigned prefix_forms(bool is_64, struct prefix_form forms[PREFIX_FORMS_MOST], unsigned *singles)
{
    struct prefix_form *all = calloc(10 * 2 * 2 * 7 * 6 * 40, sizeof(*all));
    unsigned count = 0, kept = 0;

    for (unsigned r = 0; r < 10; r++)
        for (unsigned s = 0; s < 2; s++)
            for (unsigned a = 0; a < 2; a++)
                for (unsigned g = 0; g < 7; g++)
                    for (unsigned x = 0; x < (is_64 ? 6u : 1u); x++) {
                        const struct part *const parts[4] = {&repeats[r], &sizes[s], &addresses[a], &segments[g]};
                        count = arrange(all, count, parts, &rexes[x]);
                    }
    qsort(all, count, sizeof(*all), compare);
    *singles = 0;
    for (unsigned i = 0; i < count; i++)
        if ((i == 0 || compare(&all[i - 1], &all[i]) != 0) && kept < PREFIX_FORMS_MOST) {
            *singles += all[i].length <= 1;
            forms[kept++] = all[i];
        }
    free(all);
    return kept;
}

/* ---- what they stand in front of ---- */

static bool is_listed(const struct skeleton *list, unsigned count, const struct skeleton *s)
{
    /* Equal ones are of one opcode, and near. */
    for (unsigned i = count > 400 ? count - 400 : 0; i < count; i++)
        if (memcmp(&list[i], s, sizeof(*s)) == 0)
            return true;
    return false;
}

unsigned skeletons(struct skeleton list[SKELETONS_MOST])
{
    static struct opcode_row rows[OPCODE_ROWS_MOST];
    const unsigned row_count = opcode_rows(rows);
    unsigned count = 0;

    for (unsigned i = 0; i < row_count; i++) {
        struct opcode_row row = rows[i];
        uint8_t code[15] = {0};

        if (row.state[0] == ROW_PREFIX && row.state[1] == ROW_PREFIX)
            continue;
        if (!row.is_vex)
            row.prefix = ANY;
        for (unsigned mod = row.mod == ANY ? 0 : row.mod; mod <= (row.mod == ANY ? 1u : row.mod); mod++) {
            struct skeleton s = {.is_vex = row.is_vex};
            const unsigned modrm = opcode_row_encode(&row, false, 0, code);
            const unsigned reg = row.reg == ANY ? 2 : row.reg, rm = row.rm == ANY ? 3 : row.rm;
            s.length = (uint8_t)(modrm + 1);
            memcpy(s.bytes, code, modrm);
            s.bytes[modrm] = (uint8_t)((mod ? 0xc0 : 0) | reg << 3 | (mod ? rm : opcode_row_is_gather(&row) ? 4 : 3));
            if (count < SKELETONS_MOST && !is_listed(list, count, &s))
                list[count++] = s;
        }
    }
    return count;
}
