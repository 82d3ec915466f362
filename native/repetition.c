/* repetition.c: how much of some bytes occurs again, by fingerprints of pieces of 16 bytes.
 *
 * Pieces are selected by their own content (one in 32), so that a repeated piece is selected each
 * time, wherever it stands. Pieces of two equal halves are left out: runs are not repetitions.
 */
#include "bytes.h"
#include "encoders.h"

#define PIECE 16

size_t fly_repetition_workspace(void) { return sizeof(uint32_t) << FLY_REPETITION_BITS; }

/* Reads data[0..length); `table` has fly_repetition_workspace() bytes. `step` is 1, 2, 4 or 8. */
void fly_repetition(const uint8_t *data, size_t length, size_t step, uint32_t *table,
                    uint64_t *selected, uint64_t *repeated) {
    size_t at;
    *selected = 0;
    *repeated = 0;
    memset(table, 0, fly_repetition_workspace());
    for (at = 0; at + PIECE <= length; at += step) {
        const uint64_t low = fly_load64(data + at);
        const uint64_t high = fly_load64(data + at + 8);
        const uint64_t mixed = (low * 0x9E3779B97F4A7C15u ^ (high >> 29 | high << 35)) *
                               0xD6E8FEB86659FD93u;
        if (mixed >> 59 == 0 && low != high) {
            const size_t place = (size_t)(mixed >> 20) & ((1u << FLY_REPETITION_BITS) - 1);
            const uint32_t tag = (uint32_t)(mixed & 0xFFFFFFFFu) | 1u;
            *selected += 1;
            *repeated += table[place] == tag;
            table[place] = tag;
        }
    }
}
