/* Stands in for the soft engine while the build has none. */
#include "engine/engine.h"

#include <stdio.h>
#include <string.h>

static bool usable(char *why, size_t size)
{
    snprintf(why, size, "this build has no soft engine");
    return false;
}

static void capabilities(struct engine_capabilities *out)
{
    memset(out, 0, sizeof(*out));
}

__attribute__((weak)) const struct engine engine_soft = {
    .name = "soft", .usable = usable, .capabilities = capabilities};
