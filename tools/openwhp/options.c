/* The options of `openwhp run`; see options.h. */
#include "options.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "acpi.h"
#include "guest_memory.h"
#include "problem.h"
#include "timers.h"

#define DEFAULT_MEMORY (256 * MIB)

/* A whole number in C notation (0x for hexadecimal), nothing behind it. */
static bool parse_number(const char *text, uint64_t *value)
{
    char *end;
    if (!isdigit((unsigned char)text[0]))
        return false;
    errno = 0;
    unsigned long long number = strtoull(text, &end, 0);
    *value = number;
    return errno == 0 && *end == '\0';
}

bool parse_size(const char *text, uint64_t *bytes)
{
    static const char suffixes[] = "KMG";
    char digits[32];
    size_t length = strlen(text);
    if (length == 0 || length >= sizeof digits)
        return false;
    memcpy(digits, text, length + 1);
    const char *suffix = strchr(suffixes, toupper((unsigned char)digits[length - 1]));
    unsigned shift = suffix != NULL ? 10 * (unsigned)(suffix - suffixes + 1) : 0;
    if (suffix != NULL)
        digits[length - 1] = '\0';
    if (!parse_number(digits, bytes) || *bytes > UINT64_MAX >> shift)
        return false;
    *bytes <<= shift;
    return true;
}

static int set_engine(struct options *options, const char *value)
{
    if (strcmp(value, "soft") != 0 && strcmp(value, "kvm") != 0 && strcmp(value, "auto") != 0)
        return problem("unknown engine \"%s\"; give --engine soft, kvm or auto", value);
    options->engine = value;
    return 0;
}

static int set_memory(struct options *options, const char *value)
{
    if (!parse_size(value, &options->memory))
        return problem("\"%s\" is no memory size; give --memory a number with K, M or G", value);
    if (options->memory < GUEST_MEMORY_MINIMUM || options->memory > GUEST_MEMORY_MAXIMUM)
        return problem("guest memory of %s is not possible; give --memory a size from 2M to 1024G", value);
    return 0;
}

static int set_processors(struct options *options, const char *value)
{
    uint64_t number;
    if (!parse_number(value, &number) || number == 0 || number > ACPI_MAX_PROCESSORS)
        return problem("%s processors are not possible; give --cpus a number from 1 to %d", value,
                       ACPI_MAX_PROCESSORS);
    options->processors = (unsigned)number;
    return 0;
}

static int set_kernel(struct options *options, const char *value)
{
    options->kernel = value;
    return 0;
}

static int set_append(struct options *options, const char *value)
{
    options->append = value;
    return 0;
}

static int set_bios(struct options *options, const char *value)
{
    options->bios = value;
    return 0;
}

static int set_disk(struct options *options, const char *value)
{
    options->disk = value;
    return 0;
}

static char *copy_part(const char *from, size_t length)
{
    char *copy = strndup(from, length);
    if (copy == NULL)
        problem_note("not enough memory for the command line; end other programs");
    return copy;
}

static int add_module(struct options *options, const char *text, size_t length)
{
    const char *blank = memchr(text, ' ', length);
    size_t path = blank != NULL ? (size_t)(blank - text) : length;
    if (path == 0)
        return problem("an empty file name in --initrd; give FILE[ ARGS][,FILE ...]");
    if (options->module_count == MAX_MODULES)
        return problem("more than %d files in --initrd; give fewer", MAX_MODULES);
    struct module_option *module = &options->modules[options->module_count++];
    size_t skip = path < length ? path + 1 : path;
    module->path = copy_part(text, path);
    module->arguments = copy_part(text + skip, length - skip);
    return module->path != NULL && module->arguments != NULL ? 0 : -1;
}

static int set_initrd(struct options *options, const char *value)
{
    for (const char *at = value;; at++) {
        size_t length = strcspn(at, ",");
        if (add_module(options, at, length) != 0)
            return -1;
        at += length;
        if (*at == '\0')
            return 0;
    }
}

/* FILE@GPA[:ENTRY]; the file's name may hold an @, the last one counts. */
static int set_flat(struct options *options, const char *value)
{
    const char *at = strrchr(value, '@');
    if (at == NULL || at == value)
        return problem("\"%s\" says no address; give --flat FILE@GPA[:ENTRY]", value);
    struct flat_option *flat = &options->flat;
    char *numbers = copy_part(at + 1, strlen(at + 1));
    free(flat->path);
    flat->path = copy_part(value, (size_t)(at - value));
    if (numbers == NULL || flat->path == NULL) {
        free(numbers);
        return -1;
    }
    char *colon = strchr(numbers, ':');
    if (colon != NULL)
        *colon++ = '\0';
    bool good = parse_number(numbers, &flat->gpa);
    flat->entry = flat->gpa;
    if (colon != NULL)
        good = good && parse_number(colon, &flat->entry);
    free(numbers);
    if (!good)
        return problem("\"%s\" has no such address; give --flat FILE@GPA[:ENTRY] with numbers like 0x7c00",
                       value);
    return 0;
}

static int set_output(struct output_option *output, const char *name, const char *value, bool may_be_none)
{
    if (strcmp(value, "stdio") == 0) {
        output->kind = OUTPUT_STDIO;
    } else if (may_be_none && strcmp(value, "none") == 0) {
        output->kind = OUTPUT_NONE;
    } else if (strncmp(value, "file:", 5) == 0 && value[5] != '\0') {
        output->kind = OUTPUT_FILE;
        output->path = value + 5;
    } else {
        return problem("%s cannot go to \"%s\"; give stdio%s or file:PATH", name, value,
                       may_be_none ? ", none" : "");
    }
    return 0;
}

static int set_serial(struct options *options, const char *value)
{
    return set_output(&options->serial, "--serial", value, true);
}

static int set_debug_console(struct options *options, const char *value)
{
    return set_output(&options->debug_console, "--debugcon", value, false);
}

static int set_timeout(struct options *options, const char *value)
{
    char *end;
    double seconds = strtod(value, &end);
    if (end == value || *end != '\0' || !isfinite(seconds) || seconds <= 0 || seconds > 1e9)
        return problem("\"%s\" is no time; give --timeout a number of seconds", value);
    options->timeout = (uint64_t)ceil(seconds * (double)NANOSECONDS_PER_SECOND); /* 0 would be none */
    return 0;
}

static int set_report(struct options *options, const char *value)
{
    const struct {
        const char *name;
        bool *flag;
    } parts[] = {
        {"map", &options->report_map},
        {"exits", &options->report_exits},
        {"dirty", &options->report_dirty},
        {"json", &options->report_json},
    };
    for (const char *at = value;; at++) {
        size_t length = strcspn(at, ","), i = 0, count = sizeof parts / sizeof parts[0];
        while (i < count && (strlen(parts[i].name) != length || strncmp(parts[i].name, at, length) != 0))
            i++;
        if (i == count)
            return problem("no report \"%.*s\"; give --report a list of map, exits, dirty, json",
                           (int)(length < 40 ? length : 40), at);
        *parts[i].flag = true;
        at += length;
        if (*at == '\0')
            return 0;
    }
}

struct option {
    const char *name;
    int (*set)(struct options *options, const char *value);
};

static const struct option known[] = {
    {"--engine", set_engine},   {"--memory", set_memory},           {"--cpus", set_processors},
    {"--kernel", set_kernel},   {"--initrd", set_initrd},           {"--append", set_append},
    {"--bios", set_bios},       {"--flat", set_flat},               {"--disk", set_disk},
    {"--serial", set_serial},   {"--debugcon", set_debug_console},  {"--timeout", set_timeout},
    {"--report", set_report},
};

static const struct option *find_option(const char *name, size_t length)
{
    for (unsigned i = 0; i < sizeof known / sizeof known[0]; i++)
        if (strlen(known[i].name) == length && strncmp(known[i].name, name, length) == 0)
            return &known[i];
    return NULL;
}

/* What contradicts itself, or boots nothing. */
static int check_together(const struct options *options)
{
    int sources = (options->kernel != NULL) + (options->bios != NULL) + (options->flat.path != NULL);
    if (sources == 0)
        return problem("nothing to boot; give --kernel, --bios or --flat");
    if (sources > 1)
        return problem("more than one thing to boot; give only one of --kernel, --bios and --flat");
    if (options->kernel == NULL && options->module_count > 0)
        return problem("--initrd without a kernel; give --kernel as well");
    if (options->kernel == NULL && options->append != NULL)
        return problem("--append without a kernel; give --kernel as well");
    return 0;
}

static int parse_one(struct options *options, int count, char **arguments, int *index)
{
    const char *argument = arguments[*index];
    const char *equals = strchr(argument, '=');
    size_t length = equals != NULL ? (size_t)(equals - argument) : strlen(argument);
    if (strcmp(argument, "--no-reboot") == 0) {
        options->reboot = false;
        return 0;
    }
    const struct option *option = find_option(argument, length);
    if (option == NULL)
        return problem("unknown option \"%s\"; see openwhp help", argument);
    if (equals != NULL)
        return option->set(options, equals + 1);
    if (*index + 1 >= count)
        return problem("%s says nothing; give it a value, see openwhp help", argument);
    return option->set(options, arguments[++*index]);
}

int options_parse(struct options *options, int count, char **arguments)
{
    memset(options, 0, sizeof *options);
    options->engine = NULL;
    options->memory = DEFAULT_MEMORY;
    options->processors = 1;
    options->serial.kind = OUTPUT_STDIO;
    options->reboot = true;
    for (int i = 0; i < count; i++)
        if (parse_one(options, count, arguments, &i) != 0)
            return -1;
    return check_together(options);
}

void options_release(struct options *options)
{
    for (unsigned i = 0; i < options->module_count; i++) {
        free(options->modules[i].path);
        free(options->modules[i].arguments);
    }
    options->module_count = 0;
    free(options->flat.path);
    options->flat.path = NULL;
}
