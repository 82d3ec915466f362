/* planes_encode.c: sort the bytes of values into planes and Huffman-code those that are skewed.
 *
 * Cost: one pass to count a plane and one to write it; planes that look incompressible in a sample
 * are not counted. A chunk is planned first, so that its size is known before it is written.
 */
#include "bytes.h"
#include "encoders.h"

#define BLOCKS (FLY_PLANES_CHUNK / FLY_PLANES_BLOCK)
#define LIMIT 11    /* bits of a codeword: less to look up in a short block */
#define WORTH 64    /* a plane is coded if that saves one byte in so many */
#define SLACK 256   /* and with the table before it if that costs at most one bit in so many */
#define WINDOWS 64  /* of a sample, so many words each */

enum { RAW, CONSTANT, HUFFMAN, AGAIN, BITS = AGAIN };

/* ---- Planes ---- */

/* Write byte k of each word, rotated left by one bit if `rotated`. */
FLY_INLINE void take_bytes(const uint8_t *__restrict words, size_t number, const size_t width,
                           int rotated, size_t k, uint8_t *__restrict out) {
    const unsigned shift = (unsigned)(8 * k) - (rotated && k > 0);
    const size_t below = (k + width - 1) % width;
    size_t at;
    if (rotated && (k == 0 || width == 2)) {
        for (at = 0; at < number; at++) {
            out[at] = (uint8_t)(words[width * at + k] << 1 | words[width * at + below] >> 7);
        }
    } else if (width == 2) {
        for (at = 0; at < number; at++) {
            out[at] = words[2 * at + k];
        }
    } else if (width == 4) {
        for (at = 0; at < number; at++) {
            out[at] = (uint8_t)(fly_load32(words + 4 * at) >> shift);
        }
    } else {
        for (at = 0; at < number; at++) {
            out[at] = (uint8_t)(fly_load64(words + 8 * at) >> shift);
        }
    }
}

/* The words of a chunk, and what they are. */
typedef struct source {
    const uint8_t *words;
    size_t number, width;
    int rotated, is_bool;
} source;

static source source_of(fly_dtype dtype, const uint8_t *words, size_t number) {
    source s;
    s.width = fly_planes_word(dtype, &s.rotated);
    s.words = words;
    s.number = number;
    s.is_bool = dtype == FLY_BOOL;
    return s;
}

/* Compiled for each width, so that the compiler finds vector instructions. */
static void take_plane(const source *s, size_t first, size_t number, size_t k, uint8_t *out) {
    const uint8_t *words = s->words + first * s->width;
    if (s->width == 1) {
        memcpy(out, words, number);
    } else if (s->width == 2) {
        take_bytes(words, number, 2, s->rotated, k, out);
    } else if (s->width == 4) {
        take_bytes(words, number, 4, s->rotated, k, out);
    } else {
        take_bytes(words, number, 8, s->rotated, k, out);
    }
}

static size_t block_size(const source *s, size_t block) {
    const size_t left = s->number - block * FLY_PLANES_BLOCK;
    return left < FLY_PLANES_BLOCK ? left : FLY_PLANES_BLOCK;
}

static size_t varint_size(uint64_t number) {
    uint8_t bytes[9];
    return fly_put_varint(bytes, number);
}

/* ---- Plans ---- */

typedef struct counts {
    uint32_t streams[4][256];
    uint64_t total[256];
    int constant, skewed;
} counts;

typedef struct code {
    uint8_t lengths[256];
    uint64_t table; /* bytes */
    int known;
} code;

typedef struct planner {
    counts blocks[BLOCKS];
    code common, own, before;
    uint64_t code_memory[3072]; /* at least fly_huffman_code_workspace(256, LIMIT) bytes */
    uint8_t plane[FLY_PLANES_BLOCK];
} planner;

size_t fly_planes_plan_workspace(void) { return sizeof(planner) + 7; }

static uint64_t square_sum(const uint64_t *total) {
    uint64_t sum = 0;
    size_t symbol;
    for (symbol = 0; symbol < 256; symbol++) {
        sum += total[symbol] * total[symbol];
    }
    return sum;
}

static void count_bytes(const uint8_t *bytes, size_t number, counts *c) {
    size_t symbol, stream;
    memset(c, 0, sizeof *c);
    for (stream = 0; stream < fly_huffman_streams(number); stream++) {
        const size_t begin = (size_t)fly_huffman_begin(number, stream);
        const size_t end = (size_t)fly_huffman_begin(number, stream + 1);
        (void)fly_count_symbols(bytes + begin, (uint32_t)(end - begin), 256, 0, c->streams[stream]);
        for (symbol = 0; symbol < 256; symbol++) {
            c->total[symbol] += c->streams[stream][symbol];
        }
    }
}

/* Whether a sample of a plane is so even that no code can save what makes it worth it. The sum of
 * squares is less than 1.06 times that of equal chances; see `skewed` for what is needed. */
static int looks_even(const source *s, size_t first, size_t number, size_t k, counts *c,
                      uint8_t *sample) {
    const uint64_t size = WINDOWS * WINDOWS;
    size_t window;
    if (number < 4 * size) {
        return 0;
    }
    for (window = 0; window < WINDOWS; window++) {
        take_plane(s, first + number / WINDOWS * window, WINDOWS, k, sample + WINDOWS * window);
    }
    count_bytes(sample, (size_t)size, c);
    return 256 * 100 * (square_sum(c->total) - size) < 106 * size * (size - 1);
}

/* Count a plane of a block. It is skewed if a code might save an eighth of a bit, of 8: none saves
 * more than log2(256 sum p^2), as the entropy of order 2 (Renyi) is below Shannon's, and
 * 2^(1/8) > 1.0905. */
static void count_plane(const source *s, size_t block, size_t k, planner *p) {
    const size_t first = block * FLY_PLANES_BLOCK, number = block_size(s, block);
    counts *c = p->blocks + block;
    size_t symbol;
    c->constant = c->skewed = 0;
    if (looks_even(s, first, number, k, c, p->plane)) {
        return;
    }
    take_plane(s, first, number, k, p->plane);
    count_bytes(p->plane, number, c);
    for (symbol = 0; symbol < 256; symbol++) {
        c->constant |= c->total[symbol] == number;
    }
    c->skewed = !c->constant && (uint64_t)256 * 10000 * square_sum(c->total) >
                                    (uint64_t)10905 * number * number;
}

static void make_code(code *code, const uint64_t *total, planner *p) {
    uint8_t table[2 * 256 + 8];
    uint32_t used = 0;
    size_t symbol;
    for (symbol = 0; symbol < 256; symbol++) {
        used += total[symbol] > 0;
    }
    fly_huffman_code(total, 256, fly_huffman_limit(used, LIMIT), code->lengths, p->code_memory);
    code->table = fly_huffman_pack(code->lengths, 256, table);
    code->known = 1;
}

/* The bits that symbols take, without a table; more than any if one has no codeword. */
static uint64_t bits_of(const code *code, const uint64_t *total) {
    uint64_t bits = 0;
    size_t symbol;
    for (symbol = 0; symbol < 256; symbol++) {
        bits += total[symbol] * code->lengths[symbol];
        if (total[symbol] > 0 && code->lengths[symbol] == 0) {
            return UINT64_MAX;
        }
    }
    return bits;
}

static uint64_t cost_of(const code *code, const uint64_t *total) {
    return bits_of(code, total) + 8 * (code->table + 1);
}

/* Plan a plane in one block, given its counts. A table for the whole chunk is tried first, then one
 * for the block; that of the block before is kept unless one of these saves more than it costs. */
static void plan_plane(planner *p, size_t block, size_t number, fly_plan *plan) {
    const counts *c = p->blocks + block;
    const size_t most = number - (number < WORTH ? 1 : number / WORTH);
    const code *chosen = &p->common;
    uint64_t cost, bits, size, head;
    plan->form = c->constant ? CONSTANT : RAW;
    plan->size = c->constant ? 1 : (uint32_t)number;
    if (!c->skewed) {
        return;
    }
    make_code(&p->own, c->total, p);
    cost = cost_of(&p->own, c->total);
    if (cost + cost / SLACK < cost_of(&p->common, c->total)) {
        chosen = &p->own;
    } else {
        cost = cost_of(&p->common, c->total);
    }
    bits = p->before.known ? bits_of(&p->before, c->total) : UINT64_MAX;
    if (bits <= cost + cost / SLACK) {
        chosen = &p->before;
        cost = bits;
    }
    if (cost / 8 >= most) {
        return;
    }
    size = fly_huffman_sizes(c->streams[0], fly_huffman_streams(number), chosen->lengths, 256,
                             plan->sizes);
    head = varint_size(size);
    head += chosen == &p->before ? 0 : varint_size(chosen->table) + chosen->table;
    if (head + size <= most) {
        plan->form = chosen == &p->before ? AGAIN : HUFFMAN;
        plan->size = (uint32_t)(head + size);
        memcpy(plan->lengths, chosen->lengths, 256);
        p->before = *chosen;
    }
}

static void plan_bits(const source *s, size_t block, int spare, fly_plan *plan) {
    const uint8_t *bytes = s->words + block * FLY_PLANES_BLOCK;
    const size_t number = block_size(s, block);
    size_t at = 1;
    while (at < number && bytes[at] == bytes[0]) {
        at++;
    }
    plan->form = at == number && !spare ? CONSTANT : BITS;
    plan->size = plan->form == CONSTANT ? 1 : (uint32_t)(number + 7) / 8;
}

uint64_t fly_planes_plan(fly_dtype dtype, const uint8_t *words, size_t number, int spare,
                         fly_plan *plans, void *workspace) {
    const source s = source_of(dtype, words, number);
    const size_t blocks = (number + FLY_PLANES_BLOCK - 1) / FLY_PLANES_BLOCK;
    planner *p = (planner *)(((uintptr_t)workspace + 7) / 8 * 8);
    uint64_t size = blocks * ((s.width + 3) / 4);
    size_t k, block, symbol;
    for (k = 0; k < s.width; k++) {
        uint64_t skewed[256];
        memset(skewed, 0, sizeof skewed);
        for (block = 0; block < blocks && !s.is_bool; block++) {
            if (spare && k == 0) {
                p->blocks[block].constant = p->blocks[block].skewed = 0;
                continue;
            }
            count_plane(&s, block, k, p);
            for (symbol = 0; symbol < 256 && p->blocks[block].skewed; symbol++) {
                skewed[symbol] += p->blocks[block].total[symbol];
            }
        }
        make_code(&p->common, skewed, p);
        p->before.known = 0;
        for (block = 0; block < blocks; block++) {
            fly_plan *plan = plans + block * s.width + k;
            if (s.is_bool) {
                plan_bits(&s, block, spare, plan);
            } else {
                plan_plane(p, block, block_size(&s, block), plan);
            }
            size += plan->size;
        }
    }
    return size;
}

/* ---- Writing ---- */

size_t fly_planes_encode_workspace(fly_dtype dtype) {
    int rotated;
    return FLY_PLANES_BLOCK + fly_planes_word(dtype, &rotated) * fly_huffman_coder_workspace(256);
}

/* Write a Huffman-coded plane of `number` bytes, plan->size bytes. */
static fly_status write_streams(const uint8_t *plane, size_t number, const fly_plan *plan,
                                const void *coder, uint8_t *out) {
    const uint64_t streams = fly_huffman_streams(number);
    const uint8_t *end = out + plan->size;
    uint8_t head[2 * 9 + 2 * 256 + 8 + 4 * 9], table[2 * 256 + 8];
    uint64_t stream, size = 0;
    size_t length = 0, table_size = 0;
    fly_status status = FLY_OK;
    for (stream = 0; stream < streams; stream++) {
        size += plan->sizes[stream];
        if (plan->sizes[stream] > plan->size) {
            return FLY_BAD_ARGUMENT;
        }
    }
    size += fly_huffman_head(plan->sizes, streams, NULL);
    if (plan->form == HUFFMAN) {
        table_size = fly_huffman_pack(plan->lengths, 256, table);
        length = fly_put_varint(head, table_size);
    }
    length += fly_put_varint(head + length, size);
    memcpy(head + length, table, table_size);
    length += table_size;
    length += fly_huffman_head(plan->sizes, streams, head + length);
    if (length > plan->size) {
        return FLY_BAD_ARGUMENT;
    }
    memcpy(out, head, length);
    out += length;
    for (stream = 0; stream < streams && status == FLY_OK; stream++) {
        const size_t begin = (size_t)fly_huffman_begin(number, stream);
        const size_t count = (size_t)fly_huffman_begin(number, stream + 1) - begin;
        if (plan->sizes[stream] > (uint64_t)(end - out)) {
            return FLY_BAD_ARGUMENT;
        }
        status = fly_huffman_write(coder, plane + begin, count, out, (size_t)plan->sizes[stream]);
        out += plan->sizes[stream];
    }
    return status == FLY_OK && out < end ? FLY_BAD_ARGUMENT : status;
}

fly_status fly_planes_encode(fly_dtype dtype, fly_simd simd, const uint8_t *words, size_t number,
                             const fly_plan *plans, uint8_t *out, size_t size, void *workspace) {
    const source s = source_of(dtype, words, number);
    uint8_t *plane = workspace, *coders = plane + FLY_PLANES_BLOCK;
    const uint8_t *end = out + size;
    unsigned has_coder = 0; /* bit k: for plane k */
    size_t first, k, at;
    for (first = 0; first < number; first += FLY_PLANES_BLOCK, plans += s.width) {
        const size_t left = block_size(&s, first / FLY_PLANES_BLOCK), forms = (s.width + 3) / 4;
        uint8_t *form = out;
        if ((size_t)(end - out) < forms) {
            return FLY_BAD_ARGUMENT;
        }
        memset(form, 0, forms);
        out += forms;
        for (k = 0; k < s.width; k++) {
            const fly_plan *plan = plans + k;
            void *coder = coders + k * fly_huffman_coder_workspace(256);
            const size_t needed = plan->form == CONSTANT ? 1 : s.is_bool ? (left + 7) / 8
                                  : plan->form == RAW    ? left
                                                         : plan->size;
            fly_status status = FLY_OK;
            if (plan->size != needed || (size_t)(end - out) < needed) {
                return FLY_BAD_ARGUMENT;
            }
            form[k / 4] = (uint8_t)(form[k / 4] | plan->form << 2 * (k % 4));
            if (plan->form == CONSTANT) {
                take_plane(&s, first, 1, k, out);
            } else if (s.is_bool) {
                memset(out, 0, plan->size);
                for (at = 0; at < left; at++) {
                    out[at / 8] = (uint8_t)(out[at / 8] | (words[first + at] & 1) << at % 8);
                }
            } else if (plan->form == RAW) {
                take_plane(&s, first, left, k, out);
            } else {
                take_plane(&s, first, left, k, plane);
                if (plan->form == HUFFMAN) {
                    status = fly_huffman_coder(plan->lengths, 256, 0, FLY_PLANES_CHUNK, simd,
                                               coder);
                    has_coder |= 1u << k;
                }
                status = has_coder >> k & 1 ? status : FLY_BAD_ARGUMENT;
                if (status == FLY_OK) {
                    status = write_streams(plane, left, plan, coder, out);
                }
            }
            if (status != FLY_OK) {
                return status;
            }
            out += plan->size;
        }
    }
    return out == end ? FLY_OK : FLY_BAD_ARGUMENT;
}
