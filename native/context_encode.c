/* context_encode.c: encoder of context-coded streams. */
#include "context_model.h"
#include "encoders.h"

typedef struct fly_writer {
    uint64_t size;
    uint8_t *at;
    uint64_t low, before; /* before: low when a word was last written */
    uint8_t *begin;
} fly_writer;

/* Symbols, or for four bytes values of int32. */
typedef struct fly_input {
    const uint8_t *symbols;
    size_t bytes;
    uint32_t negatives;
} fly_input;

enum {
    FLY_SAMPLED = 1 << 18, /* elements whose energies give the thresholds */
    FLY_SAMPLE_FROM = 4096,
    FLY_ROOM = 256 /* more bytes than a value and the end take */
};

/* Add one to the number written so far. */
FLY_APART void fly_carry(uint8_t *begin, uint8_t *at) {
    while (at > begin && ++*--at == 0) {
    }
}

/* Write words until size is 2^48 or more. Since low only grows between two calls that write, and by
 * less than 2^64, it has passed 2^64 if it is less than it was. */
FLY_INLINE void fly_flush(fly_writer *writer) {
    if (FLY_RARELY(writer->size < (uint64_t)1 << 48)) {
        if (writer->low < writer->before) {
            fly_carry(writer->begin, writer->at);
        }
        do {
            writer->at[0] = (uint8_t)(writer->low >> 56);
            writer->at[1] = (uint8_t)(writer->low >> 48 & 0xFF);
            writer->at += 2;
            writer->low <<= 16;
            writer->size <<= 16;
        } while (FLY_RARELY(writer->size < (uint64_t)1 << 48));
        writer->before = writer->low;
    }
}

FLY_INLINE void fly_write_bit(fly_writer *writer, uint32_t chance, uint32_t ones) {
    const uint64_t bound = (writer->size >> 32) * chance, rest = writer->size - bound;
    const uint64_t mask = (uint64_t)(int64_t)(int32_t)ones;
    writer->size = rest + ((bound - rest) & mask);
    writer->low += bound & ~mask;
    fly_flush(writer);
}

FLY_APART fly_state fly_teach_parent(fly_state own, uint32_t ones, fly_state *parent,
                                     const uint16_t *rates, uint32_t end) {
    own = own ? own : fly_opened(*parent);
    *parent = fly_taught(*parent, ones, rates, end);
    return own;
}

FLY_INLINE void fly_encode_bit(fly_writer *writer, fly_state *state, fly_state *parent, uint32_t ones,
                               const uint16_t *rates, uint32_t end) {
    fly_state own = *state;
    if (fly_is_young(own)) {
        own = fly_teach_parent(own, ones, parent, rates, end);
    }
    fly_write_bit(writer, own, ones);
    *state = fly_taught(own, ones, rates, end);
}

FLY_APART void fly_encode_excess(fly_writer *writer, fly_state *states, fly_state *parents,
                                 const uint16_t *rates, uint32_t excess) {
    const uint32_t total = excess + 1;
    const unsigned last = fly_log2(total);
    unsigned group, left;
    for (group = 0; group <= last; group++) {
        fly_encode_bit(writer, states + 2 * group, parents + 2 * group, 0u - (group < last), rates,
                       FLY_COUNT);
    }
    for (left = last; left > 0; left--) {
        const uint32_t ones = 0u - (total >> (left - 1) & 1);
        if (left == last) {
            fly_encode_bit(writer, states + 2 * last + 1, parents + 2 * last + 1, ones, rates,
                           FLY_COUNT);
        } else {
            fly_write_bit(writer, FLY_UNSEEN, ones);
        }
    }
}

FLY_INLINE uint32_t fly_magnitude(int32_t value) {
    return value < 0 ? 0u - (uint32_t)value : (uint32_t)value;
}

/* Encode a value, by the states of its context and of its sign. */
FLY_INLINE void fly_encode_value(fly_writer *writer, fly_model *model, const fly_layout *layout,
                                 fly_state *states, fly_state *bias, fly_state *bias_parent,
                                 int32_t value) {
    const uint16_t *const rates = model->rates;
    const uint32_t minus = 0u - (value < 0), magnitude = fly_magnitude(value);
    const uint32_t full = (uint32_t)1 << layout->depth;
    const uint32_t leaf = full - 1 + (magnitude < full ? magnitude : full);
    fly_state *const parents = fly_states(model) + (model->slots & minus);
    uint32_t left, node = 1;
    if (layout->zeros) {
        const uint32_t kept = 0u - (value != 0);
        fly_state own = *states;
        uint64_t bound;
        if (fly_is_young(own)) {
            own = fly_teach_parent(own, kept, fly_states(model), rates, FLY_COUNT_KEPT);
        }
        bound = (writer->size >> 32) * own;
        if (value == 0) {
            writer->size -= bound;
            writer->low += bound;
            *states = fly_taught(own, 0, rates, FLY_COUNT_KEPT);
            fly_flush(writer);
            return;
        }
        writer->size = bound;
        *states = fly_taught(own, UINT32_MAX, rates, FLY_COUNT_KEPT);
        fly_flush(writer);
    }
    fly_encode_bit(writer, bias, bias_parent, minus, rates, FLY_COUNT);
    states += model->slots & minus;
    left = leaf << (31 - layout->depth) << 1; /* digits that are left, highest first */
    while (node < full) {
        const uint32_t ones = (uint32_t)((int32_t)left >> 31);
        fly_encode_bit(writer, states + node, parents + node, ones, rates, FLY_COUNT);
        node = 2 * node - ones;
        left <<= 1;
    }
    if (FLY_RARELY(magnitude >= full) && layout->excess) {
        fly_writer copy = *writer; /* so that *writer itself can stay in registers */
        fly_encode_excess(&copy, states + full, parents + full, rates, magnitude - full);
        *writer = copy;
    }
}

FLY_INLINE int32_t fly_value(fly_input in, size_t place) {
    uint16_t two;
    int32_t symbol;
    if (in.bytes == 4) {
        memcpy(&symbol, in.symbols + 4 * place, 4);
        return symbol;
    }
    if (in.bytes == 2) {
        memcpy(&two, in.symbols + 2 * place, 2);
        symbol = two;
    } else {
        symbol = in.symbols[place];
    }
    return symbol == 0 ? 0 : symbol - (int32_t)in.negatives - (symbol <= (int32_t)in.negatives);
}

typedef struct fly_costs {
    const float *bits; /* of a chance in 4096ths */
    float *out;
    uint32_t most;
} fly_costs;

FLY_INLINE float fly_bit_cost(const fly_costs *costs, fly_state own, fly_state parent, int one) {
    const fly_state state = own ? own : parent ? parent : FLY_UNSEEN;
    return costs->bits[one ? state >> 20 : 4095 - (state >> 20)];
}

static float fly_excess_cost(const fly_costs *costs, const fly_state *states,
                              const fly_state *parents, uint32_t excess) {
    const unsigned last = fly_log2(excess + 1);
    float cost = (float)last; /* digits, about a bit each */
    unsigned group;
    for (group = 0; group <= last; group++) {
        cost += fly_bit_cost(costs, states[2 * group], parents[2 * group], group < last);
    }
    return cost;
}

/* Append the bits that each value from -most to most would take as the next one. What the header
 * of the stream rules out takes as much as the least chance. */
static void fly_cost_values(fly_costs *costs, fly_model *model, const fly_layout *layout,
                             const fly_state *states, fly_state bias, fly_state bias_parent) {
    const uint32_t most = costs->most, full = (uint32_t)1 << layout->depth;
    const float kept = layout->zeros ? fly_bit_cost(costs, *states, *fly_states(model), 1) : 0;
    float *const zero = costs->out + most;
    unsigned side;
    *zero = layout->zeros ? fly_bit_cost(costs, *states, *fly_states(model), 0) : costs->bits[0];
    for (side = 0; side < 2; side++) {
        const fly_state *const own = states + model->slots * side;
        const fly_state *const parents = fly_states(model) + model->slots * side;
        const float sign = kept + fly_bit_cost(costs, bias, bias_parent, side == 1);
        uint32_t magnitude;
        for (magnitude = 1; magnitude <= most; magnitude++) {
            const uint32_t leaf = full - 1 + (magnitude < full ? magnitude : full);
            float cost = sign;
            unsigned left;
            for (left = layout->depth; left > 0; left--) {
                const uint32_t node = leaf >> left;
                cost += fly_bit_cost(costs, own[node], parents[node], leaf >> (left - 1) & 1);
            }
            if (magnitude >= full && layout->excess) {
                cost += fly_excess_cost(costs, own + full, parents + full, magnitude - full);
            } else if (magnitude > full) {
                cost += costs->bits[0];
            }
            *(side ? zero - magnitude : zero + magnitude) = cost;
        }
    }
    costs->out += 2 * most + 1;
}

/* Choose thresholds that part the energies before the first elements into equal contexts. */
static void fly_choose_thresholds(fly_layout *layout, fly_input in, fly_model *model) {
    uint32_t counts[FLY_CODES] = {0};
    const size_t sampled = layout->count < FLY_SAMPLED ? layout->count : FLY_SAMPLED;
    size_t place, x = 0, y = 1, passed = 0, eighth = 1;
    int32_t row = 0, late = 0;
    unsigned code;
    for (place = 0; place < sampled; place++) {
        fly_column *const column = &model->columns[x < layout->columns ? x : 0];
        column->energy = y > 1 ? column->energy : 0;
        counts[fly_energy_code((uint32_t)row + (uint32_t)column->energy)]++;
        row = fly_moved(row, late, model->energy_rates[x < 128 ? x : 128]);
        late = fly_energy(fly_magnitude(fly_value(in, place)));
        column->energy = fly_moved(column->energy, late, model->energy_rates[y < 128 ? y : 128]);
        if (++x == layout->width) {
            x = 0;
            y++;
        }
    }
    for (code = 0; code < FLY_CODES && eighth < 8; code++) {
        passed += counts[code];
        if (8 * passed > eighth * sampled) {
            layout->threshold[layout->thresholds++] = (uint8_t)code;
            eighth = 8 * passed / sampled + 1;
        }
    }
}

/* Count values by the binary digits of their magnitudes less 1 (place 0 for 0), and those of 0. */
static void fly_count_lengths(fly_input in, size_t count, size_t *lengths, size_t *zeros) {
    uint32_t counts[4][256];
    size_t place, more;
    unsigned k;
    for (place = 0; in.bytes > 1 && place < count; place++) {
        const uint32_t magnitude = fly_magnitude(fly_value(in, place));
        lengths[magnitude > 1 ? fly_log2(magnitude - 1) + 1 : 0]++;
        *zeros += magnitude == 0;
    }
    for (; place < count; place += more) { /* bytes: count symbols, in four tables by turns */
        const uint8_t *const symbols = in.symbols + place;
        more = count - place < FLY_CHUNK ? count - place : FLY_CHUNK;
        memset(counts, 0, sizeof counts);
        for (k = 0; k < more; k++) {
            counts[k & 3][symbols[k]]++;
        }
        *zeros += (size_t)counts[0][0] + counts[1][0] + counts[2][0] + counts[3][0];
        for (k = 0; k < 256; k++) {
            const uint32_t below = in.negatives + 1 - k, above = k - in.negatives;
            const uint32_t magnitude = k == 0 ? 0 : k <= in.negatives ? below : above;
            lengths[magnitude > 1 ? fly_log2(magnitude - 1) + 1 : 0] +=
                (size_t)counts[0][k] + counts[1][k] + counts[2][k] + counts[3][k];
        }
    }
}

size_t fly_context_header(const void *symbols, size_t bytes, uint32_t negatives,
                          const uint64_t *shape, size_t rank, void *workspace, uint8_t *header) {
    fly_input in;
    fly_layout layout;
    size_t beyond = 0, zeros = 0, lengths[33] = {0};
    unsigned digits = 32;
    layout.thresholds = 0;
    in.symbols = (const uint8_t *)symbols;
    in.bytes = bytes;
    in.negatives = negatives;
    if (fly_context_count(shape, rank, &layout.count) != FLY_OK || layout.count == 0) {
        return 0;
    }
    fly_count_lengths(in, layout.count, lengths, &zeros);
    while (digits > 0 && lengths[digits] == 0) {
        digits--;
    }
    /* A tree holds all magnitudes but a sixteenth of the values. */
    for (layout.depth = digits; layout.depth > 0; layout.depth--) {
        beyond += lengths[layout.depth];
        if (16 * beyond > layout.count && layout.depth <= FLY_DEPTH) {
            break;
        }
    }
    header[0] = (uint8_t)((zeros > 0 ? 2 : 0) | (layout.depth < digits ? 4 : 0));
    header[1] = (uint8_t)(layout.depth << 5);
    if (fly_has_kernel(shape, rank, &layout) && layout.height * layout.width > 1) {
        header[0] |= 1;
        header[1] |= (uint8_t)(digits < 3 ? 0 : digits < 5 ? 1 : digits > 29 ? 26 : digits - 3);
        return 2;
    }
    fly_set_rows(shape, rank, &layout);
    fly_set_chunk(&layout);
    if (layout.count >= FLY_SAMPLE_FROM) {
        fly_choose_thresholds(&layout, in, fly_model_in(workspace, &layout, 1));
    }
    header[1] |= (uint8_t)layout.thresholds;
    memcpy(header + 2, layout.threshold, layout.thresholds);
    return 2 + layout.thresholds;
}

FLY_INLINE void fly_encode_kernels(fly_writer *outer, const uint8_t *room, fly_model *model,
                                   const fly_layout *layout, size_t count, fly_input in,
                                   fly_costs *costs) {
    fly_writer writer = *outer;
    size_t place, x = 0;
    unsigned y = 0;
    int32_t left = 0, corner = 0;
    for (place = 0; place < count && writer.at < room; place++) {
        const int32_t value = fly_value(in, place), up = model->above[x];
        const uint32_t prediction = fly_prediction(left, up, corner, layout);
        fly_state *const states = fly_states(model) + model->contexts[prediction];
        if (costs != NULL) {
            fly_cost_values(costs, model, layout, states, states[model->slots],
                             fly_states(model)[model->slots]);
            writer.at = writer.begin;
        }
        fly_encode_value(&writer, model, layout, states, states + model->slots,
                         fly_states(model) + model->slots, value);
        left = model->above[x] = fly_neighbor(value);
        corner = up;
        if (++x == layout->width) {
            x = 0;
            left = corner = 0;
            if (++y == layout->height) {
                y = 0;
                memset(model->above, 0, sizeof(int32_t) * layout->width);
            }
        }
    }
    *outer = writer;
}

FLY_INLINE void fly_encode_rows(fly_writer *outer, const uint8_t *room, fly_model *model,
                                const fly_layout *layout, size_t count, fly_input in,
                                fly_costs *costs) {
    const uint16_t *const paces = model->energy_rates, *const slowest = paces + FLY_ENERGY_RATES - 1;
    const uint16_t *pace = paces;
    fly_writer writer = *outer;
    size_t place = 0, x = 0, y = 1, width;
    int32_t row = 0, late = 0;
    for (; count > 0; count -= width) {
        const uint16_t rate = paces[y < 128 ? y : 128];
        fly_column *column = model->columns, *end;
        width = layout->width - x < layout->columns ? layout->width - x : layout->columns;
        width = count < width ? count : width;
        if (y == 1) {
            fly_columns_reset(model, width);
        }
        for (end = column + width; column < end && writer.at < room; column++, place++) {
            const int32_t value = fly_value(in, place);
            const uint32_t code = fly_energy_code((uint32_t)row + (uint32_t)column->energy);
            fly_state *const states = fly_states(model) + model->contexts[code];
            fly_state *const bias = &model->biases[fly_bias_context(column->bias)];
            if (costs != NULL) {
                fly_cost_values(costs, model, layout, states, *bias, *model->biases);
                writer.at = writer.begin;
            }
            fly_encode_value(&writer, model, layout, states, bias, model->biases, value);
            row = fly_moved(row, late, *pace);
            pace += pace < slowest;
            late = fly_energy(fly_magnitude(value));
            column->energy = fly_moved(column->energy, late, rate);
            if (value != 0) {
                column->bias =
                    fly_taught(column->bias, 0u - (value < 0), model->rates, FLY_COUNT_BIAS);
            }
        }
        x += width;
        if (x == layout->width) {
            x = 0;
            y++;
            pace = paces;
        }
    }
    *outer = writer;
}

/* Prepare a chunk; return its number of elements, 0 if there is no such chunk. */
static size_t fly_begin_chunk(fly_input *in, fly_layout *layout, fly_model **model,
                              const uint64_t *shape, size_t rank, const uint8_t *header,
                              size_t header_length, size_t chunk, void *workspace) {
    fly_bytes from = fly_bytes_of(header, header_length);
    size_t left;
    if (fly_context_count(shape, rank, &layout->count) != FLY_OK || layout->count == 0 ||
        fly_context_layout(layout, &from, shape, rank) != FLY_OK ||
        chunk > (layout->count - 1) / layout->chunk) {
        return 0;
    }
    in->symbols += chunk * layout->chunk * in->bytes;
    left = layout->count - chunk * layout->chunk;
    *model = fly_model_in(workspace, layout, (uint32_t)1 << 31);
    fly_model_reset(*model);
    return left < layout->chunk ? left : layout->chunk;
}

size_t fly_encode_context(const void *symbols, size_t bytes, uint32_t negatives,
                          const uint64_t *shape, size_t rank, const uint8_t *header,
                          size_t header_length, size_t chunk, void *workspace, uint8_t *out,
                          size_t room) {
    fly_input in;
    fly_writer writer;
    fly_layout layout;
    fly_model *model;
    size_t count, length;
    uint64_t last;
    in.symbols = (const uint8_t *)symbols;
    in.bytes = bytes;
    in.negatives = negatives;
    count = room < FLY_ROOM ? 0
                            : fly_begin_chunk(&in, &layout, &model, shape, rank, header,
                                              header_length, chunk, workspace);
    if (count == 0) {
        return SIZE_MAX;
    }
    writer.size = UINT64_MAX;
    writer.low = writer.before = 0;
    writer.begin = writer.at = out;
    if (layout.height) {
        fly_encode_kernels(&writer, out + room - FLY_ROOM, model, &layout, count, in, NULL);
    } else {
        fly_encode_rows(&writer, out + room - FLY_ROOM, model, &layout, count, in, NULL);
    }
    if (writer.at >= out + room - FLY_ROOM) {
        return SIZE_MAX;
    }
    last = fly_last_number(writer.low, writer.size);
    if (last < writer.before) {
        fly_carry(writer.begin, writer.at);
    }
    for (length = fly_last_bytes(last); length > 0; length--, last <<= 8) {
        *writer.at++ = (uint8_t)(last >> 56);
    }
    return (size_t)(writer.at - out);
}

int fly_context_costs(const int32_t *values, const uint64_t *shape, size_t rank,
                       const uint8_t *header, size_t header_length, size_t chunk, void *workspace,
                       const float *bits, uint32_t most, float *costs) {
    uint8_t room[2 * FLY_ROOM];
    fly_input in;
    fly_writer writer;
    fly_layout layout;
    fly_model *model;
    fly_costs into;
    size_t count;
    in.symbols = (const uint8_t *)values;
    in.bytes = 4;
    in.negatives = 0;
    count = fly_begin_chunk(&in, &layout, &model, shape, rank, header, header_length, chunk,
                            workspace);
    if (count == 0) {
        return 0;
    }
    into.bits = bits;
    into.most = most;
    into.out = costs + chunk * layout.chunk * (2 * (size_t)most + 1);
    writer.size = UINT64_MAX;
    writer.low = writer.before = 0;
    writer.begin = writer.at = room;
    if (layout.height) {
        fly_encode_kernels(&writer, room + FLY_ROOM, model, &layout, count, in, &into);
    } else {
        fly_encode_rows(&writer, room + FLY_ROOM, model, &layout, count, in, &into);
    }
    return 1;
}

size_t fly_context_encode_workspace(const uint64_t *shape, size_t rank) {
    return fly_context_workspace(shape, rank, 0, 0);
}
