/* fuzz_file.c: a target of libFuzzer; see tests/hostile/fuzz.py. */
#include "decode.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    decode_any(data, size);
    return 0;
}
