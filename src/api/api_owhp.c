/* Our additions (openwhp.h): engines, errors, memory for guests, what is mapped. */
#include "api/api.h"

#include <stdio.h>
#include <string.h>

#include "core/engines.h"

#define SAME(ours, theirs) _Static_assert((int)(ours) == (int)(theirs), #ours)
SAME(ENGINE_AUTO, OwhpEngineAuto);
SAME(ENGINE_SOFT, OwhpEngineSoft);
SAME(ENGINE_KVM, OwhpEngineKvm);
#undef SAME

/* ---- errors, engines ---- */

const char *WINAPI OwhpGetLastErrorText(void)
{
    return api_error_text();
}

VOID WINAPI OwhpSetLastErrorText(const char *Text)
{
    api_set_error_text(Text);
}

static enum status query_engine(UINT32 kind, char *reason, size_t size)
{
    const struct engine *engine;

    return engine_query(kind, &engine, reason, size);
}

static enum status query_auto(char *reason, size_t size)
{
    const struct engine *engine;
    char why[128] = "";
    enum status status = engine_select_auto(&engine, why, sizeof(why));

    if (status == STATUS_OK)
        snprintf(reason, size, "%s: %s", engine->name, why);
    else
        snprintf(reason, size, "%s", last_error_text());
    return status;
}

static enum status query(UINT32 kind, char *reason_out, UINT32 size)
{
    char reason[256] = "";
    enum status status =
        kind == ENGINE_AUTO ? query_auto(reason, sizeof(reason)) : query_engine(kind, reason, sizeof(reason));

    if (!reason_out || size == 0 || status == STATUS_INVALID_ARGUMENT)
        return status;
    size_t length = strnlen(reason, size - 1);
    reason[length] = 0;
    enum status written = caller_write(reason_out, reason, length + 1, "Reason");
    return written == STATUS_OK ? status : written;
}

HRESULT WINAPI OwhpQueryEngine(OWHP_ENGINE Engine, char *Reason, UINT32 ReasonSizeInBytes)
{
    return api_result(__func__, query((UINT32)Engine, Reason, ReasonSizeInBytes));
}
