#include "core/engines.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "util/last_error.h"

static const struct engine *stand_in[3];

/* By enum engine_choice. */
static const struct engine *engine_of(uint32_t kind)
{
    static const struct engine *const engines[] = {[ENGINE_SOFT] = &engine_soft, [ENGINE_KVM] = &engine_kvm};

    return stand_in[kind] ? stand_in[kind] : engines[kind];
}

static const char *const names[] = {[ENGINE_AUTO] = "auto", [ENGINE_SOFT] = "soft", [ENGINE_KVM] = "kvm"};

void engine_replace(enum engine_choice kind, const struct engine *engine)
{
    stand_in[kind] = engine;
}

enum engine_choice engine_kind(const struct engine *engine)
{
    return engine == engine_of(ENGINE_SOFT) ? ENGINE_SOFT : ENGINE_KVM;
}

enum status engine_query(uint32_t kind, const struct engine **engine, char *why, size_t size)
{
    char ignored[128];

    *engine = NULL;
    if (kind != ENGINE_SOFT && kind != ENGINE_KVM)
        return fail(STATUS_INVALID_ARGUMENT, "engine %u is not known (soft is 1, kvm is 2)", kind);
    if (size == 0) {
        why = ignored;
        size = sizeof(ignored);
    }
    why[0] = 0;
    const struct engine *candidate = engine_of(kind);
    enum status status = candidate->usable(why, size);
    if (status != STATUS_OK)
        return fail(status, "engine %s cannot be used here: %s", names[kind], why);
    *engine = candidate;
    return STATUS_OK;
}

/* The choice that the environment makes. */
static enum status choice_from_environment(uint32_t *choice)
{
    const char *name = getenv("OPENWHP_ENGINE");

    *choice = ENGINE_AUTO;
    if (!name || !*name)
        return STATUS_OK;
    for (uint32_t i = 0; i < array_size(names); i++) {
        if (strcmp(name, names[i]) == 0) {
            *choice = i;
            return STATUS_OK;
        }
    }
    return fail(STATUS_UNSUPPORTED_HYPERVISOR_CONFIG,
                "OPENWHP_ENGINE=%.40s: no such engine (auto, soft and kvm are known)", name);
}

/* Without anybody's word: the fast one where it works. */
static enum status select_fast(const struct engine **engine, char *why, size_t size)
{
    if (engine_query(ENGINE_KVM, engine, why, size) == STATUS_OK && (*engine)->is_fast(why, size))
        return STATUS_OK;
    return engine_query(ENGINE_SOFT, engine, NULL, 0);
}

enum status engine_select_auto(const struct engine **engine, char *why, size_t size)
{
    uint32_t choice;
    enum status status = choice_from_environment(&choice);

    *engine = NULL;
    if (status != STATUS_OK)
        return status;
    if (choice == ENGINE_AUTO)
        return select_fast(engine, why, size);
    snprintf(why, size, "OPENWHP_ENGINE asks for it");
    return engine_query(choice, engine, NULL, 0);
}

enum status engine_select(uint32_t choice, const struct engine **engine)
{
    char why[128];

    *engine = NULL;
    if (choice > ENGINE_KVM)
        return fail(STATUS_INVALID_ARGUMENT, "engine %u is not known (auto is 0, soft is 1, kvm is 2)", choice);
    return choice == ENGINE_AUTO ? engine_select_auto(engine, why, sizeof(why)) : engine_query(choice, engine, NULL, 0);
}
