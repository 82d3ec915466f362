/* context.c: decoder of context-coded streams: adaptive binary range coding. */
#include "context_model.h"

typedef struct fly_range {
    uint64_t size;
    const uint8_t *at;
    uint64_t offset; /* apart from size: GCC would keep both in one vector register */
    const uint8_t *end;
    size_t past; /* words read behind the end */
} fly_range;

/* Where symbols go, zeros at first. A value's symbol is zero + value, plus step if it is negative. */
typedef struct fly_output {
    uint8_t *at;
    size_t bytes;
    uint32_t negatives, positives; /* largest magnitudes */
    uint32_t zero, step, last; /* the last symbol */
} fly_output;

/* Shift in words, of which those missing at the end are zeros, until size is 2^48 or more. */
FLY_INLINE void fly_renew(fly_range *range) {
    while (FLY_RARELY(range->size < (uint64_t)1 << 48)) {
        unsigned word = 0;
        if (range->end - range->at > 1) {
            word = (unsigned)range->at[0] << 8 | range->at[1];
            range->at += 2;
        } else if (range->at < range->end) {
            word = (unsigned)*range->at++ << 8;
        } else {
            range->past++;
        }
        range->size <<= 16;
        range->offset = range->offset << 16 | word;
    }
}

/* Decode a bit that is hard to predict, without a branch; all ones for a 1. */
FLY_INLINE uint32_t fly_even_bit(fly_range *range, uint32_t chance) {
    const uint64_t bound = (range->size >> 32) * chance, rest = range->size - bound;
    uint64_t ones = (uint64_t)0 - (range->offset < bound);
    FLY_HIDE(ones);
    range->size = rest + ((bound - rest) & ones);
    range->offset = range->offset - bound + (bound & ones);
    fly_renew(range);
    return (uint32_t)ones;
}

/* What a young state is taken for; teaches its parent the bit to come. */
FLY_APART fly_state fly_young(fly_state own, fly_state *parent, uint64_t size, uint64_t offset,
                              const uint16_t *rates, uint32_t end) {
    own = own ? own : fly_opened(*parent);
    *parent = fly_taught(*parent, 0u - (offset < (size >> 32) * own), rates, end);
    return own;
}

/* Decode a bit, all ones for a 1, by a state that has been read. */
FLY_INLINE uint32_t fly_digit(fly_range *range, fly_state own, fly_state *state, fly_state *parent,
                              const uint16_t *rates) {
    uint32_t ones;
    if (fly_is_young(own)) {
        own = fly_young(own, parent, range->size, range->offset, rates, FLY_COUNT);
    }
    ones = fly_even_bit(range, own);
    *state = fly_taught(own, ones, rates, FLY_COUNT);
    return ones;
}

/* Decode a bit that decides what to do next. */
FLY_INLINE int fly_choice(fly_range *range, fly_state *state, fly_state *parent,
                          const uint16_t *rates, uint32_t end) {
    fly_state own = *state;
    uint64_t bound;
    if (fly_is_young(own)) {
        own = fly_young(own, parent, range->size, range->offset, rates, end);
    }
    bound = (range->size >> 32) * own;
    if (range->offset < bound) {
        range->size = bound;
        *state = fly_taught(own, UINT32_MAX, rates, end);
        fly_renew(range);
        return 1;
    }
    range->size -= bound;
    range->offset -= bound;
    *state = fly_taught(own, 0, rates, end);
    fly_renew(range);
    return 0;
}

FLY_INLINE void fly_put(fly_output *out, uint32_t symbol) {
    if (out->bytes == 1) {
        *out->at = (uint8_t)symbol;
    } else if (out->bytes == 2) {
        const uint16_t two = (uint16_t)symbol;
        memcpy(out->at, &two, 2);
    } else {
        memcpy(out->at, &symbol, 4);
    }
}

/* Decode by how much a magnitude exceeds its tree; more than `most` if that is what it is. */
FLY_APART uint32_t fly_excess(fly_range *range, fly_state *states, fly_state *parents,
                              const uint16_t *rates, uint32_t most) {
    const unsigned last = fly_log2(most + 1);
    unsigned group = 0, left;
    uint32_t total = 1;
    while (fly_choice(range, states + 2 * group, parents + 2 * group, rates, FLY_COUNT)) {
        if (group++ == last) {
            return UINT32_MAX;
        }
    }
    for (left = group; left > 0; left--) {
        fly_state *const state = states + 2 * group + 1;
        total = 2 * total - (left < group ? fly_even_bit(range, FLY_UNSEEN)
                                          : fly_digit(range, *state, state,
                                                      parents + 2 * group + 1, rates));
    }
    return total - 1;
}

/* Decode sign and magnitude of a value that is not 0; 0 if it is out of range. */
FLY_INLINE int32_t fly_signed(fly_range *range, fly_model *model, const fly_layout *layout,
                              fly_state *states, fly_state *bias, fly_state *bias_parent,
                              fly_output *out) {
    const uint16_t *const rates = model->rates;
    const fly_state positive = states[1], negative = states[model->slots + 1];
    const uint32_t minus = fly_digit(range, *bias, bias, bias_parent, rates);
    const uint32_t full = (uint32_t)1 << layout->depth;
    fly_state *const parents = fly_states(model) + (model->slots & minus);
    fly_state own = positive ^ ((positive ^ negative) & minus);
    uint32_t node = 1, value, symbol;
    states += model->slots & minus;
    while (node < full) { /* both next states are read before it is known which it will be */
        const fly_state zero = states[2 * node], one = states[2 * node + 1];
        const uint32_t ones = fly_digit(range, own, states + node, parents + node, rates);
        own = zero ^ ((zero ^ one) & ones);
        node = 2 * node - ones;
    }
    value = node - full + 1;
    if (FLY_RARELY(value == full) && layout->excess) {
        const uint32_t most = (minus ? out->negatives : out->positives) - full;
        fly_range copy = *range; /* so that *range itself can stay in registers */
        uint32_t excess;
        if (most >> 31) { /* a tree above all levels */
            return 0;
        }
        excess = fly_excess(&copy, states + full, parents + full, rates, most);
        if (excess > most) {
            return 0;
        }
        *range = copy;
        value += excess;
    }
    value = (value ^ minus) - minus;
    symbol = value + out->zero + (out->step & minus);
    if (FLY_RARELY(symbol - 1 >= out->last)) {
        return 0;
    }
    fly_put(out, symbol);
    return out->bytes == 4 ? fly_neighbor((int32_t)value) : (int32_t)value;
}

FLY_APART fly_status fly_decode_kernels(fly_range *outer, fly_model *model, const fly_layout *layout,
                                        size_t count, fly_output out) {
    fly_range range = *outer;
    unsigned y = 0;
    for (; count > 0; count -= layout->width) {
        int32_t *above = model->above, *const end = above + layout->width;
        int32_t left = 0, corner = 0;
        if (y == layout->height) {
            memset(above, 0, sizeof(int32_t) * layout->width);
            y = 0;
        }
        y++;
        for (; above < end; above++, out.at += out.bytes) {
            const uint32_t prediction = fly_prediction(left, *above, corner, layout);
            fly_state *const states = fly_states(model) + model->contexts[prediction];
            left = 0;
            if (!layout->zeros ||
                fly_choice(&range, states, fly_states(model), model->rates, FLY_COUNT_KEPT)) {
                left = fly_signed(&range, model, layout, states, states + model->slots,
                                  fly_states(model) + model->slots, &out);
                if (left == 0) {
                    return FLY_CONTEXT_VALUE;
                }
            }
            corner = *above;
            *above = left;
        }
    }
    *outer = range;
    return FLY_OK;
}

FLY_APART fly_status fly_decode_rows(fly_range *outer, fly_model *model, const fly_layout *layout,
                                     size_t count, fly_output out) {
    const uint16_t *const paces = model->energy_rates, *const slowest = paces + FLY_ENERGY_RATES - 1;
    const uint16_t *pace = paces;
    fly_range range = *outer;
    int32_t row = 0, late = 0;
    size_t x = 0, y = 1, width;
    for (; count > 0; count -= width) {
        const uint16_t rate = paces[y < 128 ? y : 128];
        fly_column *column = model->columns, *end;
        width = layout->width - x < layout->columns ? layout->width - x : layout->columns;
        width = count < width ? count : width;
        if (y == 1) {
            fly_columns_reset(model, width);
        }
        for (end = column + width; column < end; column++, out.at += out.bytes) {
            const uint32_t code = fly_energy_code((uint32_t)row + (uint32_t)column->energy);
            fly_state *const states = fly_states(model) + model->contexts[code];
            row = fly_moved(row, late, *pace);
            pace += pace < slowest;
            late = 0;
            if (!layout->zeros ||
                fly_choice(&range, states, fly_states(model), model->rates, FLY_COUNT_KEPT)) {
                const int32_t value =
                    fly_signed(&range, model, layout, states,
                               &model->biases[fly_bias_context(column->bias)], model->biases, &out);
                if (value == 0) {
                    return FLY_CONTEXT_VALUE;
                }
                column->bias =
                    fly_taught(column->bias, 0u - (value < 0), model->rates, FLY_COUNT_BIAS);
                late = fly_energy((uint32_t)(value < 0 ? -value : value));
            }
            column->energy = fly_moved(column->energy, late, rate);
        }
        x += width;
        if (x == layout->width) {
            x = 0;
            y++;
            pace = paces;
        }
    }
    *outer = range;
    return FLY_OK;
}

/* Decode one chunk; exactly the bytes that the encoder writes are accepted. */
static fly_status fly_decode_chunk(const uint8_t *data, size_t length, fly_model *model,
                                   const fly_layout *layout, size_t count, fly_output out) {
    fly_range range;
    fly_status status;
    uint64_t last = 0;
    size_t read, k;
    range.size = range.offset = 0;
    range.past = 0;
    range.at = data;
    range.end = data + length;
    for (k = 0; k < 4; k++) {
        range.size = (uint64_t)1 << 47;
        fly_renew(&range);
    }
    range.size = UINT64_MAX;
    if (range.offset == range.size) { /* the encoder's numbers are below, and offset then stays so */
        return FLY_CONTEXT_END;
    }
    fly_model_reset(model);
    memset(out.at, 0, count * out.bytes);
    status = layout->height ? fly_decode_kernels(&range, model, layout, count, out)
                            : fly_decode_rows(&range, model, layout, count, out);
    if (status != FLY_OK) {
        return status;
    }
    read = 2 * (((size_t)(range.at - data) + 1) / 2 + range.past); /* bytes */
    for (k = read - 8; k < read; k++) {
        last = last << 8 | (k < length ? data[k] : 0);
    }
    return fly_last_number(last - range.offset, range.size) == last &&
                   length == read - 8 + fly_last_bytes(last)
               ? FLY_OK
               : FLY_CONTEXT_END;
}

/* The largest magnitude of symbols of an alphabet, or for 0 of values of int32. */
static uint32_t fly_most(uint32_t negatives, uint32_t alphabet) {
    const uint32_t positives = alphabet == 0 ? (uint32_t)1 << 31 : alphabet - 1 - negatives;
    return negatives > positives ? negatives : positives;
}

uint64_t fly_context_limit(uint64_t length) { return ((uint64_t)1 << 20) + 512 * length; }

size_t fly_context_workspace(const uint64_t *shape, size_t rank, uint32_t negatives,
                             uint32_t alphabet) {
    fly_layout layout;
    if (fly_context_count(shape, rank, &layout.count) != FLY_OK || layout.count == 0 ||
        (alphabet > 0 && negatives >= alphabet)) {
        return 0;
    }
    fly_set_rows(shape, rank, &layout); /* a kernel takes less */
    fly_set_chunk(&layout);
    return fly_model_size(&layout, fly_most(negatives, alphabet));
}

size_t fly_context_chunks(const uint8_t *data, size_t length, const uint64_t *shape, size_t rank) {
    fly_bytes bytes = fly_bytes_of(data, length);
    fly_layout layout;
    if (fly_context_count(shape, rank, &layout.count) != FLY_OK || layout.count == 0 ||
        fly_context_layout(&layout, &bytes, shape, rank) != FLY_OK) {
        return 0;
    }
    return (layout.count - 1) / layout.chunk + 1;
}

fly_status fly_decode_context(const uint8_t *data, size_t length, const uint64_t *shape, size_t rank,
                              uint32_t negatives, uint32_t alphabet, void *symbols,
                              size_t symbol_bytes, size_t first, size_t chunks, void *workspace,
                              size_t workspace_size) {
    fly_bytes bytes = fly_bytes_of(data, length), lengths;
    fly_layout layout;
    fly_output out;
    fly_model *model;
    uint32_t most;
    size_t number, k;
    fly_status status = fly_context_count(shape, rank, &layout.count);
    if (alphabet == 0 ? symbol_bytes != 4 || negatives != 0
                      : negatives >= alphabet || alphabet > 65536 ||
                            (symbol_bytes != 2 && (symbol_bytes != 1 || alphabet > 256))) {
        return FLY_BAD_ARGUMENT;
    }
    if (status != FLY_OK || layout.count == 0) {
        return status == FLY_OK && length > 0 ? FLY_BYTES_LEFT : status;
    }
    if (layout.count > fly_context_limit(length)) {
        return FLY_TOO_MANY;
    }
    status = fly_context_layout(&layout, &bytes, shape, rank);
    if (status != FLY_OK) {
        return status;
    }
    most = fly_most(negatives, alphabet);
    if (layout.depth > fly_most_depth(most)) {
        return FLY_CONTEXT_HEADER;
    }
    if (workspace_size < fly_model_size(&layout, most)) {
        return FLY_SMALL_WORKSPACE;
    }
    model = fly_model_in(workspace, &layout, most);
    out.bytes = symbol_bytes;
    out.negatives = alphabet == 0 ? (uint32_t)1 << 31 : negatives;
    out.positives = alphabet == 0 ? ((uint32_t)1 << 31) - 1 : alphabet - 1 - negatives;
    out.zero = negatives;
    out.step = alphabet > 0;
    out.last = alphabet - 1; /* of int32: any */
    number = (layout.count - 1) / layout.chunk + 1;
    lengths = bytes;
    for (k = 1; k < number; k++) {
        fly_varint(&bytes);
    }
    for (k = 0; k < number; k++) {
        const size_t before = k * layout.chunk, left = layout.count - before;
        const uint64_t size = k + 1 < number ? fly_varint(&lengths) : fly_left(&bytes);
        const uint8_t *const chunk = fly_take(&bytes, size > SIZE_MAX ? SIZE_MAX : (size_t)size);
        if (chunk == NULL) {
            return bytes.status;
        }
        if (k >= first && k - first < chunks) {
            out.at = (uint8_t *)symbols + before * symbol_bytes;
            status = fly_decode_chunk(chunk, (size_t)size, model, &layout,
                                      left < layout.chunk ? left : layout.chunk, out);
            if (status != FLY_OK) {
                return status;
            }
        }
    }
    return FLY_OK;
}
