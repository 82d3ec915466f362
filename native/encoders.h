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

/* ---- Symbols ----
 *
 * They are of one byte up to an alphabet of 256, else of two. Where there is a `base`, a byte is a
 * symbol plus that, modulo 256; it is 0 for symbols of two bytes. */

/* Add to `counts` how often each symbol of the alphabet occurs; FLY_BAD_ARGUMENT if another does. */
fly_status fly_count_symbols(const void *symbols, uint32_t count, uint32_t alphabet, uint32_t base,
                             uint32_t *counts);

/* ---- rANS streams ---- */

/* Write the table of a stream of the counted symbols; return its length, and set how many symbols
 * are used. If fewer than two are, the payload is empty. The workspace has
 * fly_rans_table_workspace(alphabet) bytes, the table at most fly_rans_table_bound(alphabet). */
size_t fly_rans_table(const uint64_t *counts, uint32_t alphabet, uint8_t *table, uint32_t *used,
                      uint64_t *workspace);
size_t fly_rans_table_workspace(uint32_t alphabet);
size_t fly_rans_table_bound(uint32_t alphabet);

/* Encode one chunk of symbols, all in the table read, into out[*begin] to
 * out[fly_rans_chunk_bound(count)]. The workspace has fly_rans_chunk_workspace bytes. */
fly_status fly_rans_encode_chunk(const fly_rans *rans, const void *symbols, uint32_t base,
                                 size_t count, uint8_t *out, size_t *begin, void *workspace,
                                 fly_simd simd);
size_t fly_rans_chunk_bound(size_t count);
size_t fly_rans_chunk_workspace(uint32_t alphabet);

/* ---- Huffman: huffman_encode.c ---- */

/* The longest codeword of a code for so many used symbols: `limit`, or more if it takes more. */
unsigned fly_huffman_limit(uint32_t used, unsigned limit);

/* Lengths of an optimal code of at most `limit` bits, 32 at most, or as many as are needed to tell
 * the symbols apart. Counts are below 2^56 in all. The workspace is for the used symbols. */
size_t fly_huffman_code_workspace(uint32_t used, unsigned limit);
void fly_huffman_code(const uint64_t *counts, uint32_t alphabet, unsigned limit, uint8_t *lengths,
                      void *workspace);

/* Write lengths as a table of at most 2 * alphabet + 8 bytes; return how many. */
size_t fly_huffman_pack(const uint8_t *lengths, uint32_t alphabet, uint8_t *table);

/* Set the bytes that each stream takes, from the counts of each; return those of the payload. Its
 * head, which `fly_huffman_head` measures and, unless `out` is NULL, writes, comes first. */
uint64_t fly_huffman_sizes(const uint32_t *counts, uint64_t streams, const uint8_t *lengths,
                           uint32_t alphabet, uint64_t *sizes);
size_t fly_huffman_head(const uint64_t *sizes, uint64_t streams, uint8_t *out);

/* Prepare to write about `count` symbols with codewords of these lengths. */
size_t fly_huffman_coder_workspace(uint32_t alphabet);
fly_status fly_huffman_coder(const uint8_t *lengths, uint32_t alphabet, uint32_t base,
                             uint64_t count, fly_simd simd, void *workspace);

/* Write the symbols of a stream, of exactly `size` bytes; FLY_BAD_ARGUMENT if it takes others. */
fly_status fly_huffman_write(const void *workspace, const void *symbols, size_t count,
                             uint8_t *out, size_t size);

/* ---- Byte planes: planes_encode.c ---------------------------------------------------------- */

/* Bytes of a word of values, 0 for an unknown dtype, and whether words are rotated (planes.c). */
size_t fly_planes_word(fly_dtype dtype, int *is_rotated);

/* How a plane of a block is to be stored. */
typedef struct fly_plan {
    uint64_t sizes[4]; /* of its Huffman streams */
    uint32_t size;     /* bytes in all */
    uint8_t form;
    uint8_t lengths[256];
} fly_plan;

/* Decide how to store a chunk of `number` little-endian words, at most FLY_PLANES_CHUNK: a plan for
 * each block and in it each plane. If `spare`, plane 0 is not coded, so that the result is not too
 * short for its values. Return the bytes that the chunk takes. */
size_t fly_planes_plan_workspace(void);
uint64_t fly_planes_plan(fly_dtype dtype, const uint8_t *words, size_t number, int spare,
                         fly_plan *plans, void *workspace);

/* Write a chunk by its plans, of exactly `size` bytes; FLY_BAD_ARGUMENT if it takes others. */
size_t fly_planes_encode_workspace(fly_dtype dtype);
fly_status fly_planes_encode(fly_dtype dtype, fly_simd simd, const uint8_t *words, size_t number,
                             const fly_plan *plans, uint8_t *out, size_t size, void *workspace);

/* Context coder: context_encode.c. Symbols have 1 or 2 bytes; with 4 they are values of int32 and
 * `negatives` is 0. The header, at most 9 bytes, is chosen from all of them; 0 if there are none. */
size_t fly_context_encode_workspace(const uint64_t *shape, size_t rank);
size_t fly_context_header(const void *symbols, size_t bytes, uint32_t negatives,
                          const uint64_t *shape, size_t rank, void *workspace, uint8_t *header);

/* Encode a chunk of all symbols into out[0..room); return its length, SIZE_MAX if the room is short. */
size_t fly_encode_context(const void *symbols, size_t bytes, uint32_t negatives,
                          const uint64_t *shape, size_t rank, const uint8_t *header,
                          size_t header_length, size_t chunk, void *workspace, uint8_t *out,
                          size_t room);

/* For each of a chunk of values, in order, the bits that each value from -most to most would take in
 * its place: 2 * most + 1 floats, written where those of the chunk stand among all. `bits` has those
 * of a chance of (k + 1/2) / 4096, k from 0 to 4095. Digits of what exceeds a tree count a bit each.
 * 0 if there is no such chunk. */
int fly_context_costs(const int32_t *values, const uint64_t *shape, size_t rank,
                       const uint8_t *header, size_t header_length, size_t chunk, void *workspace,
                       const float *bits, uint32_t most, float *costs);

#endif
