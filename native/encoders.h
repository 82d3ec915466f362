/* encoders.h: encoders of the streams that flyweight.h decodes. Not needed on a device.
 *
 * Like the decoders they take all memory from the caller; `..._bound` functions tell how much.
 */
#ifndef FLY_ENCODERS_H
#define FLY_ENCODERS_H

#include "flyweight.h"

/* How much of some bytes occurs again: see repetition.c. */
#define FLY_REPETITION_BITS 16
size_t fly_repetition_workspace(void);
void fly_repetition(const uint8_t *data, size_t length, size_t step, uint32_t *table,
                    uint64_t *selected, uint64_t *repeated);

/* ---- rANS streams ---- */

/* Add to counts[alphabet] how often each symbol occurs; an item is a byte or two, as `item` says.
 * FLY_BAD_ARGUMENT if a symbol is outside the alphabet. */
fly_status fly_rans_count(const void *symbols, int item, size_t count, uint32_t alphabet,
                          uint64_t *counts);

/* Write the table of a stream of the counted symbols; return its length, and set how many symbols
 * are used. If fewer than two are, the payload is empty. The workspace has
 * fly_rans_table_workspace(alphabet) bytes, the table at most fly_rans_table_bound(alphabet). */
size_t fly_rans_table(const uint64_t *counts, uint32_t alphabet, uint8_t *table, uint32_t *used,
                      uint64_t *workspace);
size_t fly_rans_table_workspace(uint32_t alphabet);
size_t fly_rans_table_bound(uint32_t alphabet);

/* Encode one chunk of symbols, all in the table read, into out[*begin] to
 * out[fly_rans_chunk_bound(count)]. The workspace has fly_rans_chunk_workspace bytes. */
fly_status fly_rans_encode_chunk(const fly_rans *rans, const void *symbols, int item, size_t count,
                                 uint8_t *out, size_t *begin, void *workspace, fly_simd simd);
size_t fly_rans_chunk_bound(size_t count);
size_t fly_rans_chunk_workspace(uint32_t alphabet, int item);

#endif
