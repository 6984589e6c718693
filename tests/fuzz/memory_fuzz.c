/* The model of the memory API as a libFuzzer target (docs/testing.md). */
#include "memory_model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    memory_model_run(data, size);
    return 0;
}
