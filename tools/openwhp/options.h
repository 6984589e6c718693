/* What the user asked for: the options of `openwhp run`. */
#ifndef OPENWHP_TOOL_OPTIONS_H
#define OPENWHP_TOOL_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

enum output_kind { OUTPUT_NONE, OUTPUT_STDIO, OUTPUT_FILE };

struct output_option {
    enum output_kind kind;
    const char *path; /* with OUTPUT_FILE */
};

enum { MAX_MODULES = 32 };

/* FILE[ ARGS]: an initial RAM disk, or a multiboot module with its arguments. */
struct module_option {
    char *path;
    char *arguments; /* "" when there are none */
};

struct flat_option {
    char *path; /* NULL: none */
    uint64_t gpa, entry;
};

struct options {
    const char *engine; /* "soft", "kvm", "auto"; NULL: the library decides (OPENWHP_ENGINE) */
    uint64_t memory;    /* bytes */
    unsigned processors;
    const char *kernel, *append, *bios, *disk; /* NULL: not given */
    struct module_option modules[MAX_MODULES];
    unsigned module_count;
    struct flat_option flat;
    struct output_option serial, debug_console;
    uint64_t timeout; /* nanoseconds, 0: none */
    bool report_map, report_exits, report_dirty, report_json;
    bool reboot; /* a reset by the guest starts the machine anew */
};

/*
 * Reads the arguments behind the verb "run". -1 with a problem() that names the argument; the options then
 * still have to be released. Texts point into argv where they can.
 */
int options_parse(struct options *options, int count, char **arguments);
void options_release(struct options *options);

/* "64", "64K", "512M", "2G": bytes. False when it is no such size or does not fit. */
bool parse_size(const char *text, uint64_t *bytes);

#endif
