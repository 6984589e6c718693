/* Our addition for translations (openwhp.h): many at once. */
#include "api/api.h"

#include "core/translate.h"

enum { BATCH = 128 };

/* The caller's arrays. */
struct arrays {
    const WHV_GUEST_VIRTUAL_ADDRESS *gvas;
    WHV_TRANSLATE_GVA_RESULT *results;
    WHV_GUEST_PHYSICAL_ADDRESS *gpas;
};

static enum status some(const struct translate_batch *batch, const struct arrays *a, UINT32 from, UINT32 count)
{
    struct translation translations[BATCH];
    WHV_GUEST_VIRTUAL_ADDRESS gvas[BATCH];
    WHV_TRANSLATE_GVA_RESULT results[BATCH];
    WHV_GUEST_PHYSICAL_ADDRESS gpas[BATCH];

    enum status status = caller_read(gvas, a->gvas + from, count * sizeof(gvas[0]), "Gvas");
    if (status != STATUS_OK)
        return status;
    for (UINT32 i = 0; i < count; i++)
        translations[i].gva = gvas[i];
    translate_some(batch, translations, count);
    for (UINT32 i = 0; i < count; i++) {
        results[i] = (WHV_TRANSLATE_GVA_RESULT){.ResultCode = (WHV_TRANSLATE_GVA_RESULT_CODE)translations[i].result};
        gpas[i] = translations[i].gpa;
    }
    status = caller_write(a->results + from, results, count * sizeof(results[0]), "TranslationResults");
    return status == STATUS_OK ? caller_write(a->gpas + from, gpas, count * sizeof(gpas[0]), "Gpas") : status;
}

static enum status check(const struct arrays *a, UINT32 count)
{
    enum status status = count ? require_pointer(a->gvas, "Gvas") : fail(STATUS_INVALID_ARGUMENT, "Count is 0");

    if (status == STATUS_OK)
        status = caller_writable(a->results, count * sizeof(a->results[0]), "TranslationResults");
    return status == STATUS_OK ? caller_writable(a->gpas, count * sizeof(a->gpas[0]), "Gpas") : status;
}

static enum status translate_all(struct vcpu *vcpu, UINT32 flags, UINT32 count, const struct arrays *a)
{
    struct translate_batch batch;
    enum status status = check(a, count);

    if (status == STATUS_OK)
        status = translate_begin(vcpu, flags, &batch);
    if (status != STATUS_OK)
        return status;
    for (UINT32 done = 0; status == STATUS_OK && done < count; done += BATCH)
        status = some(&batch, a, done, count - done < BATCH ? count - done : BATCH);
    translate_end(&batch);
    return status;
}

HRESULT WINAPI OwhpTranslateGvas(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex, WHV_TRANSLATE_GVA_FLAGS TranslateFlags,
                                 const WHV_GUEST_VIRTUAL_ADDRESS *Gvas, UINT32 Count,
                                 WHV_TRANSLATE_GVA_RESULT *TranslationResults, WHV_GUEST_PHYSICAL_ADDRESS *Gpas)
{
    const struct arrays arrays = {Gvas, TranslationResults, Gpas};

    RETURN_ON_VCPU(Partition, VpIndex, translate_all(vcpu, (uint32_t)TranslateFlags, Count, &arrays));
}
