/* context_model.h: header and model of context-coded streams, for decoder and encoder.
 *
 * docs/format.md, "Context-coded streams", has the rules; the names here are those used there.
 */
#ifndef FLY_CONTEXT_MODEL_H
#define FLY_CONTEXT_MODEL_H

#include "bytes.h"

#if defined(__GNUC__) || defined(__clang__)
#define FLY_RARELY(condition) __builtin_expect(!!(condition), 0)
#define FLY_APART static __attribute__((noinline, unused))
/* Hide a word's origin: it is then used as a mask, without a branch on what is random. */
#define FLY_HIDE(word) __asm__("" : "+r"(word))
#else
#define FLY_RARELY(condition) (condition)
#define FLY_APART static
#define FLY_HIDE(word) ((void)0)
#endif

enum {
    FLY_CONTEXTS = 10, /* 1 to 9, and before them the parents */
    FLY_BIASES = 18,   /* contexts of the sign by a column's bias, likewise */
    FLY_KERNEL = 256,  /* elements of the largest kernel */
    FLY_COLUMNS = 4096,
    FLY_CHUNK = 1 << 22,
    FLY_DEPTH = 7,     /* most digits of a tree */
    FLY_YOUNG = 8,     /* bits until which a state teaches its parent */
    FLY_COUNT = 1023,  /* where counts end, and a mask */
    FLY_COUNT_KEPT = 255,
    FLY_COUNT_BIAS = 127,
    FLY_ENERGY_RATES = 129,
    FLY_CODES = 256 /* of energies */
};

/* An estimate of 22 bits that the next bit is 1, above a count of 10 bits; 0: not yet used. */
typedef uint32_t fly_state;
#define FLY_UNSEEN ((fly_state)1 << 31)

typedef struct fly_column {
    int32_t energy;
    fly_state bias; /* how often its values were below zero */
} fly_column;

/* What the header of a stream and the shape determine. */
typedef struct fly_layout {
    size_t count, width, chunk; /* elements: in all, of a row, of a chunk */
    size_t columns;             /* that are kept at once */
    unsigned height, shift;     /* of a kernel; height 0: contexts from energies */
    unsigned scale;             /* of predictions, and half its unit */
    int32_t half;
    unsigned depth, excess;     /* of the trees of magnitudes; whether some exceed them */
    unsigned zeros, thresholds;
    uint8_t threshold[7];
} fly_layout;

/* States and tables of one chunk. Behind them stand the states, then the columns. The states of a
 * context begin with those of a sign: slot 0, the nodes of the tree, and two slots for each group of
 * what exceeds it. Then follow those of the other sign. Slot 0 is whether a value is kept, and that
 * of the other sign, in kernels, the sign. */
typedef struct fly_model {
    fly_column *columns;
    uint32_t slots, stride; /* of a sign, of a context */
    fly_state biases[FLY_BIASES];
    uint16_t rates[FLY_COUNT + 1], energy_rates[FLY_ENERGY_RATES];
    uint16_t contexts[FLY_CODES]; /* of a code, as the place of its states */
    int32_t above[FLY_KERNEL];
} fly_model;

FLY_INLINE fly_state *fly_states(fly_model *model) { return (fly_state *)(model + 1); }

/* Count the elements of a shape; FLY_BAD_ARGUMENT above 2^40. */
FLY_APART fly_status fly_context_count(const uint64_t *shape, size_t rank, size_t *count) {
    uint64_t product = 1;
    size_t place;
    *count = 0;
    for (place = 0; place < rank; place++) {
        if (shape[place] == 0) {
            return FLY_OK;
        }
    }
    for (place = 0; place < rank; place++) {
        if (shape[place] > ((uint64_t)1 << 40) / product) {
            return FLY_BAD_ARGUMENT;
        }
        product *= shape[place];
    }
    *count = (size_t)product;
    return *count == product ? FLY_OK : FLY_BAD_ARGUMENT;
}

/* Set height and width of a kernel, if the shape of count > 0 elements has one. */
FLY_INLINE int fly_has_kernel(const uint64_t *shape, size_t rank, fly_layout *layout) {
    const uint64_t width = rank > 2 ? shape[rank - 1] : FLY_KERNEL + 1;
    const uint64_t height = rank > 3 ? shape[rank - 2] : 1;
    if (width > FLY_KERNEL || height > FLY_KERNEL / width) {
        return 0;
    }
    layout->height = (unsigned)height;
    layout->width = (size_t)width;
    return 1;
}

FLY_INLINE void fly_set_rows(const uint64_t *shape, size_t rank, fly_layout *layout) {
    layout->height = 0;
    layout->width = rank == 0 ? 1 : rank == 1 ? layout->count : layout->count / (size_t)shape[0];
}

/* A chunk of one row looks at each column once: it takes some columns again and again. */
FLY_INLINE void fly_set_chunk(fly_layout *layout) {
    const size_t unit = (layout->height ? layout->height : 1) * layout->width;
    layout->chunk = unit > FLY_CHUNK ? FLY_CHUNK : FLY_CHUNK / unit * unit;
    layout->columns = layout->width;
    if (layout->count <= layout->width || layout->chunk <= layout->width) {
        layout->columns = layout->width < FLY_COLUMNS ? layout->width : FLY_COLUMNS;
    }
}

/* Read the header of a stream of layout->count > 0 elements. */
FLY_APART fly_status fly_context_layout(fly_layout *layout, fly_bytes *bytes, const uint64_t *shape,
                                        size_t rank) {
    const unsigned flags = fly_byte(bytes), second = fly_byte(bytes), number = second & 31;
    const uint8_t *codes;
    unsigned k;
    layout->zeros = flags >> 1 & 1;
    layout->excess = flags >> 2 & 1;
    layout->depth = second >> 5;
    layout->shift = layout->thresholds = 0;
    if (flags > 7 || number > (flags & 1 ? 26 : sizeof layout->threshold)) {
        return FLY_CONTEXT_HEADER;
    }
    if (flags & 1) {
        layout->shift = number;
        layout->scale = number > 0 ? number - 1 : 0;
        layout->half = (int32_t)1 << layout->scale >> 1;
        if (!fly_has_kernel(shape, rank, layout)) {
            return FLY_CONTEXT_KERNEL;
        }
    } else {
        fly_set_rows(shape, rank, layout);
        layout->thresholds = number;
        codes = fly_take(bytes, number);
        for (k = 0; codes != NULL && k < number && k < sizeof layout->threshold; k++) {
            layout->threshold[k] = codes[k];
            if (k > 0 && codes[k] <= codes[k - 1]) {
                return FLY_CONTEXT_HEADER;
            }
        }
    }
    fly_set_chunk(layout);
    return bytes->status;
}

/* Most digits of a tree for magnitudes up to `most`. */
FLY_INLINE unsigned fly_most_depth(uint32_t most) {
    return most > 1u << (FLY_DEPTH - 1) ? FLY_DEPTH : most < 2 ? 0 : fly_log2(most - 1) + 1;
}

FLY_INLINE uint32_t fly_slots(unsigned depth, uint32_t most) {
    return ((uint32_t)1 << depth) + 2 * (fly_log2(most | 1) + 1);
}

/* Bytes of workspace for magnitudes up to `most`, whatever the depth. */
FLY_INLINE size_t fly_model_size(const fly_layout *layout, uint32_t most) {
    const unsigned depth = fly_most_depth(most);
    return sizeof(fly_model) + (layout->height ? 0 : sizeof(fly_column) * layout->columns) +
           sizeof(fly_state) * (FLY_CONTEXTS * 2 * fly_slots(depth, most) + ((size_t)2 << depth)) + 8;
}

/* Place a model in a workspace of fly_model_size bytes and fill its tables. */
FLY_APART fly_model *fly_model_in(void *workspace, const fly_layout *layout, uint32_t most) {
    static const uint8_t steps[2][4] = {{1, 3, 5, 9}, {1, 5, 10, 17}};
    fly_model *const model = (fly_model *)(((uintptr_t)workspace + 7) & ~(uintptr_t)7);
    unsigned n, k;
    model->slots = fly_slots(layout->depth, most);
    model->stride = 2 * model->slots;
    model->columns = (fly_column *)(fly_states(model) + FLY_CONTEXTS * model->stride +
                                    ((size_t)2 << layout->depth)); /* fly_signed reads beyond */
    for (n = 0; n <= FLY_COUNT; n++) {
        model->rates[n] = (uint16_t)(131072 / (2 * n + 3));
    }
    model->energy_rates[0] = 512;
    for (n = 1; n < FLY_ENERGY_RATES; n++) {
        model->energy_rates[n] = (uint16_t)(n < 128 ? 131072 / (2 * n + 1) : 512);
    }
    for (n = 0; n < FLY_CODES; n++) {
        const int prediction = (int)n - 128;
        unsigned context = layout->height ? 5 : 1;
        for (k = 0; k < 4 && layout->height; k++) {
            const int step = steps[layout->shift > 0][k];
            context += (unsigned)((prediction >= step) - (prediction <= -step));
        }
        for (k = 0; k < layout->thresholds; k++) {
            context += layout->threshold[k] < n;
        }
        model->contexts[n] = (uint16_t)(context * model->stride);
    }
    return model;
}

/* Forget everything but columns, before a chunk. */
FLY_APART void fly_model_reset(fly_model *model) {
    uint32_t k;
    memset(fly_states(model), 0, sizeof(fly_state) * FLY_CONTEXTS * model->stride);
    memset(model->biases, 0, sizeof model->biases);
    memset(model->above, 0, sizeof model->above);
    for (k = 0; k < model->stride; k++) {
        fly_states(model)[k] = FLY_UNSEEN;
    }
    model->biases[0] = FLY_UNSEEN;
}

/* Forget so many columns, before the first row of a chunk looks at them. */
FLY_APART void fly_columns_reset(fly_model *model, size_t columns) {
    size_t k;
    for (k = 0; k < columns; k++) {
        model->columns[k].energy = 0;
        model->columns[k].bias = FLY_UNSEEN;
    }
}

/* A state after a bit, given as all ones or none; counts end at `end`. */
FLY_INLINE fly_state fly_taught(fly_state state, uint32_t ones, const uint16_t *rates, uint32_t end) {
    const uint32_t n = state & FLY_COUNT, missing = (ones & 0xFFFF) - (state >> 16);
    return state + ((missing * rates[n]) & ~(uint32_t)FLY_COUNT) + ((n - end) >> 31);
}

/* A state that is used for the first times begins as its parent, and teaches it its bit. */
FLY_INLINE fly_state fly_opened(fly_state parent) {
    const uint32_t n = parent & FLY_COUNT;
    return parent - n + (n < 4 ? n : 4);
}

FLY_INLINE int fly_is_young(fly_state state) {
    return FLY_RARELY((state & FLY_COUNT) < FLY_YOUNG) != 0;
}

FLY_INLINE int32_t fly_moved(int32_t energy, int32_t towards, uint16_t rate) {
    return energy + (int32_t)(((int64_t)(towards - energy) * rate) >> 16);
}

FLY_INLINE int32_t fly_energy(uint32_t magnitude) {
    return (int32_t)((magnitude < 32767 ? magnitude : 32767) << 15);
}

/* Eight codes an octave; for less than 2^31. */
FLY_INLINE uint32_t fly_energy_code(uint32_t energy) {
    const unsigned log = fly_log2(energy | 8) - 3;
    return log * 8 + (energy >> log);
}

/* 1 to 17 */
FLY_INLINE uint32_t fly_bias_context(fly_state bias) { return 1 + (((bias >> 16) + 2048) >> 12); }

/* Neighbors beyond +-2^26 count as that, so that a prediction takes 32 bits. */
FLY_INLINE int32_t fly_neighbor(int32_t value) {
    const int32_t most = (int32_t)1 << 26;
    return value > most ? most : value < -most ? -most : value;
}

/* The code of what three neighbors predict, scaled by a shift and rounded. */
FLY_INLINE uint32_t fly_prediction(int32_t left, int32_t up, int32_t corner, const fly_layout *layout) {
    const int32_t code = (2 * (left + up) - corner + layout->half) >> layout->scale;
    return (uint32_t)(128 + (code < -128 ? -128 : code > 127 ? 127 : code));
}

/* The number from low on, before low + size, that ends in most zero bytes; modulo 2^64. */
FLY_APART uint64_t fly_last_number(uint64_t low, uint64_t size) {
    unsigned bits;
    if (low == 0 || 0 - low < size) {
        return 0;
    }
    for (bits = 56; bits > 0; bits -= 8) {
        const uint64_t up = (0 - low) & (((uint64_t)1 << bits) - 1); /* to the next multiple */
        if (up < size) {
            return low + up;
        }
    }
    return low;
}

/* How many of eight bytes stand before the zeros at the end. */
FLY_INLINE size_t fly_last_bytes(uint64_t last) {
    size_t length = 8;
    while (length > 0 && (last >> (64 - 8 * length) & 0xFF) == 0) {
        length--;
    }
    return length;
}

#endif
