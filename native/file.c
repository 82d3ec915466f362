/* file.c: open a file that lies in memory, and decode its tensors one by one.
 *
 * Values are written little-endian and turned at the end where the machine is not. Where values are
 * wider than what is decoded first (symbols, stored values), that is decoded into the end of the
 * output and expanded from its start on, so that it needs no memory of its own.
 */
#include "bytes.h"

#define BLOCK ((size_t)1 << 16)
#define MOST_BYTES ((uint64_t)1 << 26) /* of all tensors, and 4096 for each byte of the file */

/* ---- Blocks of tensors, each with a checksum ---- */

static size_t stored_bytes(const fly_file *file, uint32_t place) {
    const fly_header *header = &file->header;
    const fly_entry *entry = &header->entries[place];
    return (place + 1 < header->tensors ? entry[1].start : header->payload) - entry->start;
}

typedef struct block {
    size_t start, length, number; /* number: of this block and those before it */
    uint32_t end;                 /* place of the tensor after it */
} block;

/* Move to the next block of tensors, the first where `number` is 0; its length is 0 at the end. */
static void next_block(const fly_file *file, block *at) {
    const uint32_t tensors = file->header.tensors;
    size_t size = 0;
    at->length = 0;
    while (at->end < tensors && stored_bytes(file, at->end) == 0) {
        at->end++;
    }
    at->start = at->end < tensors ? file->header.entries[at->end].start : 0;
    for (; at->end < tensors && at->length < BLOCK; at->end++, at->length += size) {
        size = stored_bytes(file, at->end);
        if (at->length != 0 && size >= BLOCK) {
            break;
        }
    }
    at->number += at->length != 0;
}

/* ---- Opening ---- */

typedef struct preamble {
    size_t header, stored, plain, table, checks; /* offset and lengths */
    int coded, bare;
} preamble;

static size_t length_of(fly_bytes *in) {
    const uint64_t number = fly_varint(in);
    if (number > SIZE_MAX / 8) {
        in->status = FLY_CUT_SHORT;
    }
    return in->status == FLY_OK ? (size_t)number : 0;
}

static fly_status read_preamble(const uint8_t *data, size_t length, preamble *found) {
    fly_bytes in = fly_bytes_of(data, length);
    const uint8_t *start = fly_take(&in, 6);
    if (start == NULL || start[0] != 'F' || start[1] != 'L' || start[2] != 'Y' || start[3] != 'W') {
        return FLY_NOT_FLY;
    }
    if (start[4] != 1 || start[5] > 3) {
        return start[4] != 1 ? FLY_OTHER_VERSION : FLY_UNKNOWN_FLAGS;
    }
    found->coded = start[5] & 1;
    found->bare = start[5] >> 1;
    found->stored = length_of(&in);
    found->plain = found->coded ? length_of(&in) : found->stored;
    found->table = found->coded ? length_of(&in) : 0;
    found->checks = length_of(&in);
    if (in.status != FLY_OK) {
        return in.status;
    }
    if (found->coded && (found->plain > 8 * found->stored || found->table > found->stored)) {
        return FLY_BAD_HEADER_LENGTH;
    }
    found->header = (size_t)(in.at - data);
    if (found->stored > fly_left(&in) || 4 * found->checks + 4 > fly_left(&in) - found->stored) {
        return FLY_CUT_SHORT;
    }
    return FLY_OK;
}

#ifndef FLY_NO_HUFFMAN
static fly_status decode_huffman(const uint8_t *table, size_t table_length, const uint8_t *payload,
                                 size_t length, size_t count, uint32_t alphabet, void *out,
                                 void *workspace, size_t size) {
    const uint64_t chunks = ((uint64_t)count + FLY_HUFFMAN_CHUNK - 1) / FLY_HUFFMAN_CHUNK;
    fly_status status;
    if (count == 0) {
        return table_length != 0 || length != 0 ? FLY_HUFFMAN_NOT_EMPTY : FLY_OK;
    }
    status = fly_huffman_open(table, table_length, alphabet, count, FLY_SCALAR, workspace, size);
    return status != FLY_OK ? status
                            : fly_huffman_decode(workspace, payload, length, count, 0, chunks,
                                                 alphabet <= 256 ? 1 : 2, out);
}
#endif

size_t fly_open_workspace(const uint8_t *data, size_t length, const fly_architecture *known) {
    preamble found;
    size_t tensors, index, decoder = 0;
    if (read_preamble(data, length, &found) != FLY_OK) {
        return 0;
    }
    tensors = !found.bare ? found.plain / 3 : known == NULL ? 0 : known->length / 2;
    index = tensors * sizeof(fly_entry) + (found.bare ? 0 : found.plain / 2 * sizeof(uint32_t));
    if (!found.coded) {
        return index + 8;
    }
#ifndef FLY_NO_HUFFMAN
    decoder = fly_huffman_workspace(256, 0);
#endif
    return found.plain + 16 + (index > decoder ? index : decoder);
}

fly_status fly_open(fly_file *file, const uint8_t *data, size_t length,
                    const fly_architecture *architecture, void *workspace, size_t size) {
    preamble found;
    block blocks = {0, 0, 0, 0};
    const uint8_t *plain;
    uint8_t *room = workspace;
    size_t left = size, end;
    fly_status status = read_preamble(data, length, &found);
    if (status != FLY_OK) {
        return status;
    }
    end = found.header + found.stored + 4 * found.checks;
    if (fly_load32(data + end) != fly_crc32(0, data, end)) {
        return FLY_HEADER_CHECKSUM;
    }
    plain = data + found.header;
    if (found.coded) {
        const size_t kept = (found.plain + 7) & ~(size_t)7;
        if (kept > size) {
            return FLY_SMALL_WORKSPACE;
        }
        room += kept;
        left -= kept;
#ifdef FLY_NO_HUFFMAN
        return FLY_UNSUPPORTED;
#else
        status = decode_huffman(plain, found.table, plain + found.table, found.stored - found.table,
                                found.plain, 256, workspace, room, left);
        plain = workspace;
#endif
    }
    file->data = data;
    file->length = length;
    file->checks = found.header + found.stored;
    file->payload = end + 4;
    if (status == FLY_OK) {
        status = fly_header_open(&file->header, plain, found.plain, found.bare, length);
    }
    if (status == FLY_OK) {
        status = fly_header_index(&file->header, architecture, room, left, &file->used);
    }
    if (status != FLY_OK) {
        return status;
    }
    file->used += size - left;
    if (length - file->payload < 4 || file->header.payload != length - file->payload - 4) {
        return FLY_FILE_LENGTH;
    }
    if (file->header.total_bytes > MOST_BYTES + 4096 * (uint64_t)length) {
        return FLY_TOO_MANY;
    }
    do {
        next_block(file, &blocks);
    } while (blocks.length != 0);
    return found.checks == blocks.number ? FLY_OK : FLY_BLOCK_COUNT;
}

/* ---- Checksums, metadata, tensors ---- */

fly_status fly_check_file(const fly_file *file) {
    const size_t end = file->length - 4;
    return fly_load32(file->data + end) == fly_crc32(0, file->data, end) ? FLY_OK
                                                                          : FLY_FILE_CHECKSUM;
}

static fly_status check_block(const fly_file *file, uint32_t place) {
    block at = {0, 0, 0, 0};
    if (stored_bytes(file, place) == 0) {
        return FLY_OK;
    }
    do {
        next_block(file, &at);
    } while (at.length != 0 && at.end <= place);
    return fly_load32(file->data + file->checks + 4 * (at.number - 1)) ==
                   fly_crc32(0, file->data + file->payload + at.start, at.length)
               ? FLY_OK
               : FLY_BLOCK_CHECKSUM;
}

fly_status fly_check_tensor(const fly_file *file, const fly_tensor *tensor) {
    const fly_status status = check_block(file, tensor->source);
    return status != FLY_OK || tensor->first == tensor->source ? status
                                                               : check_block(file, tensor->first);
}

/* Whether a text is that of a string that ends with a zero. */
static int is_text(const char *bytes, size_t length, const char *text) {
    size_t index;
    for (index = 0; index < length && text[index] != '\0' && text[index] == bytes[index]; index++) {
    }
    return index == length && text[index] == '\0';
}

fly_status fly_find_metadata(const fly_file *file, const char *key, fly_text *value) {
    size_t at = 0;
    fly_text found;
    fly_status status;
    do {
        status = fly_header_metadata(&file->header, &at, &found, value);
    } while (status == FLY_OK && !is_text(found.bytes, found.length, key));
    return status;
}

fly_status fly_tensor_at(const fly_file *file, uint32_t place, fly_tensor *tensor) {
    return fly_header_tensor(&file->header, place, tensor);
}

fly_status fly_find_tensor(fly_file *file, const char *name, fly_tensor *tensor) {
    uint32_t place;
    for (place = 0; place < file->header.tensors; place++) {
        const char *found = fly_header_name(&file->header, place);
        if (is_text(found, file->header.name_bytes, name)) {
            return fly_tensor_at(file, place, tensor);
        }
    }
    return FLY_NO_TENSOR;
}

const uint8_t *fly_part_of(const fly_file *file, const fly_tensor *tensor, fly_part part,
                           size_t *length) {
    const uint8_t *at = file->data + file->payload + tensor->start;
    unsigned before;
    for (before = 0; before < (unsigned)part; before++) {
        at += tensor->lengths[before];
    }
    *length = (size_t)tensor->lengths[part];
    return at;
}

/* ---- Workspace ---- */

typedef struct room {
    uint8_t *at;
    size_t left;
} room;

static room room_of(void *workspace, size_t size) {
    const size_t skipped = (8 - ((uintptr_t)workspace & 7)) & 7;
    room all;
    all.at = (uint8_t *)workspace + (size < skipped ? size : skipped);
    all.left = size < skipped ? 0 : size - skipped;
    return all;
}

static size_t rounded(size_t size) { return (size + 7) & ~(size_t)7; }

/* So many bytes, or NULL where there are fewer. */
static uint8_t *take(room *all, size_t size) {
    uint8_t *at = all->at;
    if (rounded(size) > all->left) {
        return NULL;
    }
    all->at += rounded(size);
    all->left -= rounded(size);
    return at;
}

/* Values of a dtype, little-endian, in the byte order of the machine. */
static void turn(uint8_t *values, size_t count, fly_dtype dtype) {
#if FLY_LITTLE_ENDIAN
    (void)values;
    (void)count;
    (void)dtype;
#else
    const size_t halves = dtype >= FLY_COMPLEX64 ? 2 : 1, item = fly_item_bytes(dtype) / halves;
    size_t index;
    for (count *= halves; count != 0; count--, values += item) {
        for (index = 0; index < item / 2; index++) {
            const uint8_t byte = values[index];
            values[index] = values[item - 1 - index];
            values[item - 1 - index] = byte;
        }
    }
#endif
}

/* ---- Symbols ---- */

static int is_shared(const fly_tensor *tensor) {
    return tensor->form >= FLY_FORM_HUFFMAN && tensor->form <= FLY_FORM_CONTEXT;
}

static size_t symbol_bytes(size_t levels) { return levels <= 255 ? 1 : 2; }

/* A group as one tensor: the first with the rows of all; and what else its tensors need. */
typedef struct group {
    fly_tensor all;
    const uint8_t *table, *payload;
    size_t table_length, length, count;
    size_t start;              /* of the tensor's elements in those of the group */
    uint32_t negatives, below; /* context-coded: levels below zero, of the tensor and the most */
    size_t levels;             /* the most */
    uint32_t alphabet;
    int alone;
} group;

static fly_status find_group(const fly_file *file, const fly_tensor *tensor, group *found) {
    const fly_header *header = &file->header;
    size_t above = 0;
    uint32_t place;
    fly_bytes in;
    fly_status status = fly_tensor_at(file, tensor->first, &found->all);
    const uint64_t own_rows = tensor->rank == 0 ? 0 : tensor->shape[0];
    if (status != FLY_OK) {
        return status;
    }
    found->alone = found->all.rank == 0 || found->all.rows <= found->all.shape[0];
    found->start = found->negatives = found->below = 0;
    found->levels = tensor->levels;
    if (!found->alone) {
#ifdef FLY_NO_GROUPS
        return FLY_UNSUPPORTED;
#endif
        /* All have elements, at most 2^20 together. */
        const uint32_t rest = (uint32_t)tensor->elements / (uint32_t)own_rows;
        found->all.shape[0] = found->all.rows;
        found->all.elements = (uint64_t)rest * found->all.rows;
        found->start = tensor->flags & FLY_MEMBER ? (size_t)rest * tensor->rows : 0;
    }
    if (found->all.elements > SIZE_MAX / 32) {
        return FLY_TOO_MANY;
    }
    found->count = (size_t)found->all.elements;
    found->table = fly_part_of(file, &found->all, FLY_PART_TABLES, &found->table_length);
    found->payload = fly_part_of(file, &found->all, FLY_PART_SYMBOLS, &found->length);
    in = fly_bytes_of(found->table, found->table_length);
    for (place = tensor->first; place < header->tensors; place++) {
        const fly_entry *entry = &header->entries[place];
        const int follows = (entry->form & FLY_MEMBER) != 0 && entry->link == tensor->first;
        if (place != tensor->first && !follows) {
            continue;
        }
        found->levels = entry->levels > found->levels ? entry->levels : found->levels;
        if (found->all.form == FLY_FORM_CONTEXT && found->all.elements != 0) {
            const uint64_t number = fly_varint(&in);
            if (in.status != FLY_OK || number > entry->levels) {
                return in.status != FLY_OK ? in.status : FLY_BAD_LEVEL;
            }
            found->negatives = place == tensor->source ? (uint32_t)number : found->negatives;
            found->below = number > found->below ? (uint32_t)number : found->below;
            above = entry->levels - number > above ? (size_t)(entry->levels - number) : above;
        }
        if (found->alone) {
            break;
        }
    }
    if (found->all.form == FLY_FORM_CONTEXT) {
        found->levels = found->below + above;
        status = fly_left(&in) != 0 ? FLY_BYTES_LEFT : FLY_OK;
    }
    found->alphabet = (uint32_t)found->levels + 1;
    return found->levels > 65535 ? FLY_BAD_LEVEL : status;
}

/* Bytes of workspace to decode the symbols of a group. */
static size_t stream_workspace(const group *found) {
    switch (found->all.form) {
#ifndef FLY_NO_HUFFMAN
    case FLY_FORM_HUFFMAN: return fly_huffman_workspace(found->alphabet, 0);
#endif
#ifndef FLY_NO_RANS
    case FLY_FORM_RANS:
        return 4 * fly_rans_workspace(found->table, found->table_length,
                                      found->alphabet, 0);
#endif
#ifndef FLY_NO_CONTEXT
    case FLY_FORM_CONTEXT:
        return fly_context_workspace(found->all.shape, found->all.rank,
                                     found->below, found->alphabet);
#endif
    default: return 0;
    }
}

/* Decode the symbols of a group, of symbol_bytes(levels) each. */
static fly_status decode_stream(const group *found, uint8_t *out, room left) {
    switch (found->all.form) {
#ifndef FLY_NO_HUFFMAN
    case FLY_FORM_HUFFMAN:
        return decode_huffman(found->table, found->table_length, found->payload, found->length,
                              found->count, found->alphabet, out, left.at, left.left);
#endif
#ifndef FLY_NO_RANS
    case FLY_FORM_RANS: {
        fly_rans rans;
        const fly_status status = fly_rans_open(
            &rans, found->table, found->table_length, found->payload, found->length, found->count,
            found->alphabet, (uint32_t *)(void *)left.at, left.left / 4);
        return status != FLY_OK
                   ? status
                   : fly_rans_decode(&rans, 0, rans.chunks, out, found->count, FLY_SCALAR);
    }
#endif
#ifndef FLY_NO_CONTEXT
    case FLY_FORM_CONTEXT:
        return fly_decode_context(found->payload, found->length, found->all.shape, found->all.rank,
                                  found->below, found->alphabet, out,
                                  symbol_bytes(found->levels), 0, SIZE_MAX, left.at, left.left);
#endif
    default: (void)out; (void)left; return FLY_UNSUPPORTED;
    }
}

size_t fly_symbols_workspace(const fly_file *file, const fly_tensor *tensor) {
    group found;
    if (!is_shared(tensor) || find_group(file, tensor, &found) != FLY_OK) {
        return 0;
    }
    return 8 + rounded(stream_workspace(&found)) +
           (found.alone ? 0 : rounded(found.count * symbol_bytes(found.levels)));
}

/* Take a tensor's own symbols from those of its group. */
static fly_status copy_symbols(const fly_tensor *tensor, const group *found, const uint8_t *all,
                               uint8_t *out) {
    const size_t from = symbol_bytes(found->levels), to = symbol_bytes(tensor->levels);
    size_t place;
    for (place = 0; place < (size_t)tensor->elements; place++) {
        const uint8_t *at = all + from * (found->start + place);
        uint32_t symbol = *at;
        uint16_t wide;
        if (from == 2) {
            memcpy(&wide, at, 2);
            symbol = wide;
        }
        if (symbol != 0 && tensor->form == FLY_FORM_CONTEXT) {
            symbol += found->negatives - found->below; /* below 0 it wraps and is too large */
            if (symbol == 0) {
                return FLY_BAD_LEVEL;
            }
        }
        if (symbol > tensor->levels) {
            return FLY_BAD_LEVEL;
        }
        wide = (uint16_t)symbol;
        if (to == 2) {
            memcpy(out + 2 * place, &wide, 2);
        } else {
            out[place] = (uint8_t)symbol;
        }
    }
    return FLY_OK;
}

fly_status fly_decode_symbols(const fly_file *file, const fly_tensor *tensor, void *out,
                              size_t size, void *workspace, size_t workspace_size) {
    room left = room_of(workspace, workspace_size);
    group found;
    fly_status status;
    uint8_t *all;
    if (!is_shared(tensor)) {
        return FLY_BAD_ARGUMENT;
    }
    status = find_group(file, tensor, &found);
    if (status != FLY_OK) {
        return status;
    }
    if (tensor->elements > size / symbol_bytes(tensor->levels)) {
        return FLY_SMALL_OUTPUT;
    }
    if (found.alone) {
        return decode_stream(&found, out, left);
    }
    all = take(&left, found.count * symbol_bytes(found.levels));
    if (all == NULL) {
        return FLY_SMALL_WORKSPACE;
    }
    status = decode_stream(&found, all, left);
    return status != FLY_OK ? status : copy_symbols(tensor, &found, all, out);
}

/* ---- Levels, scales, offsets ---- */

static int all_finite(fly_dtype dtype, const uint8_t *values, size_t count) {
    static const uint16_t exponents[4] = {0x7C00, 0x7F80, 0x7F80, 0x7FF0};
    const size_t item = fly_item_bytes(dtype);
    const uint16_t exponent = exponents[dtype - FLY_FLOAT16];
    for (; count != 0 && (fly_load16(values + item - 2) & exponent) != exponent; count--) {
        values += item;
    }
    return count == 0;
}

/* The stored values of levels, scales or offsets. */
static const uint8_t *stored_table(const fly_file *file, const fly_tensor *tensor, fly_part part,
                                   size_t *count) {
    size_t length;
    const uint8_t *stored = fly_part_of(file, tensor, part, &length);
    *count = length / fly_item_bytes((fly_dtype)tensor->storage);
    return stored;
}

/* Write a table, little-endian, to room for so many values of the dtype. */
static fly_status widen_table(const fly_tensor *tensor, const uint8_t *stored, size_t count,
                              uint8_t *out) {
    const fly_dtype dtype = (fly_dtype)tensor->dtype;
    const fly_status status = fly_widen(dtype, (fly_dtype)tensor->storage, stored, count, out);
    return status == FLY_OK && (tensor->flags & FLY_SCALED) && !all_finite(dtype, out, count)
               ? FLY_NOT_FINITE
               : status;
}

fly_status fly_decode_table(const fly_file *file, const fly_tensor *tensor, fly_part part,
                            void *out, size_t size) {
    size_t count;
    const uint8_t *stored = stored_table(file, tensor, part, &count);
    fly_status status;
    if (!is_shared(tensor) || part < FLY_PART_CODEBOOK || part > FLY_PART_OFFSETS) {
        return FLY_BAD_ARGUMENT;
    }
    if (count > size / fly_item_bytes((fly_dtype)tensor->dtype)) {
        return FLY_SMALL_OUTPUT;
    }
    status = widen_table(tensor, stored, count, out);
    turn(out, count, (fly_dtype)tensor->dtype);
    return status;
}

/* ---- Values ---- */

/* Bytes for the tables of a shared tensor and for dequantizing by them. */
static size_t tables_workspace(const fly_tensor *tensor) {
    const fly_dtype dtype = (fly_dtype)tensor->dtype;
    const size_t item = fly_item_bytes(dtype);
    size_t part, size = rounded(fly_dequantize_workspace(dtype, tensor->levels));
    size += rounded(item * tensor->levels);
    for (part = FLY_PART_SCALES; part <= FLY_PART_OFFSETS; part++) {
        size += tensor->parts >> part & 1 ? rounded(item * (size_t)tensor->shape[0]) : 0;
    }
    return size;
}

static fly_status shared_values(const fly_file *file, const fly_tensor *tensor, uint8_t *out,
                                room left) {
    const fly_dtype dtype = (fly_dtype)tensor->dtype;
    const size_t item = fly_item_bytes(dtype), width = symbol_bytes(tensor->levels);
    const size_t count = (size_t)tensor->elements;
    const size_t rows = tensor->flags & FLY_SCALED ? (size_t)tensor->shape[0] : 1;
    const uint8_t *tables[3] = {NULL, NULL, NULL};
    uint8_t *symbols = item < width ? take(&left, count * width) : out + count * (item - width);
    uint8_t *workspace;
    unsigned part;
    fly_status status = symbols == NULL ? FLY_SMALL_WORKSPACE
                                        : fly_decode_symbols(file, tensor, symbols, count * width,
                                                             left.at, left.left);
#ifdef FLY_NO_DOUBLE
    if (dtype == FLY_FLOAT64 && (tensor->flags & FLY_SCALED)) {
        return FLY_UNSUPPORTED;
    }
#endif
    for (part = 0; part < 3 && status == FLY_OK; part++) {
        if (part == 0 || (tensor->parts >> (FLY_PART_CODEBOOK + part) & 1)) {
            size_t length;
            const uint8_t *stored =
                stored_table(file, tensor, (fly_part)(FLY_PART_CODEBOOK + part), &length);
            uint8_t *own = take(&left, length * item);
            status = own == NULL ? FLY_SMALL_WORKSPACE : widen_table(tensor, stored, length, own);
            tables[part] = own;
        }
    }
    workspace = take(&left, fly_dequantize_workspace(dtype, tensor->levels));
    if (status != FLY_OK || workspace == NULL) {
        return status != FLY_OK ? status : FLY_SMALL_WORKSPACE;
    }
    return fly_dequantize(dtype, symbols, width, rows, rows == 0 ? 0 : count / rows, tables[0],
                          tensor->levels, tables[1], tables[2], workspace, out);
}

/* Decode values of the storage dtype: of form 8, of a group of such tensors, or those of form 0
 * that are not zero. */
static fly_status decode_planes(const fly_file *file, const fly_tensor *tensor, size_t count,
                                uint8_t *out, room *left) {
#ifdef FLY_NO_PLANES
    (void)file, (void)tensor, (void)count, (void)out, (void)left;
    return FLY_UNSUPPORTED;
#else
    const uint64_t words = (uint64_t)count * (tensor->storage >= FLY_COMPLEX64 ? 2 : 1);
    size_t length;
    const uint8_t *data = fly_part_of(file, tensor, FLY_PART_DENSE, &length);
    return fly_planes_decode((fly_dtype)tensor->storage, FLY_SCALAR, data, length, count, 0,
                             (words + FLY_PLANES_CHUNK - 1) / FLY_PLANES_CHUNK, out, left->at,
                             left->left);
#endif
}

static fly_status planes_values(const fly_file *file, const fly_tensor *tensor, uint8_t *out,
                                room left) {
    const fly_dtype dtype = (fly_dtype)tensor->dtype, storage = (fly_dtype)tensor->storage;
    const size_t item = fly_item_bytes(dtype), narrow = fly_item_bytes(storage);
    const size_t count = (size_t)tensor->elements;
    group found;
    uint8_t *stored;
    fly_status status = find_group(file, tensor, &found);
    if (status != FLY_OK) {
        return status;
    }
    stored = found.alone ? out + count * (item - narrow)
                         : take(&left, found.count * narrow);
    if (stored == NULL) {
        return FLY_SMALL_WORKSPACE;
    }
    status = decode_planes(file, &found.all, found.count, stored, &left);
    return status != FLY_OK
               ? status
               : fly_widen(dtype, storage, stored + found.start * narrow, count, out);
}

#ifndef FLY_NO_SPARSE
static fly_status sparse_values(const fly_file *file, const fly_tensor *tensor, uint8_t *out,
                                room left) {
    const fly_dtype dtype = (fly_dtype)tensor->dtype, storage = (fly_dtype)tensor->storage;
    const size_t item = fly_item_bytes(dtype), narrow = fly_item_bytes(storage);
    const size_t count = (size_t)tensor->elements;
    size_t length, table_length, place, kept = 0;
    const uint8_t *table = fly_part_of(file, tensor, FLY_PART_TABLES, &table_length);
    const uint8_t *payload = fly_part_of(file, tensor, FLY_PART_POSITIONS, &length);
    uint8_t *mask = take(&left, count), *values;
    fly_status status = mask == NULL ? FLY_SMALL_WORKSPACE
                                     : fly_positions_decode(table, table_length, payload, length,
                                                            count, mask, FLY_SCALAR, left.at,
                                                            left.left);
    if (status != FLY_OK) {
        return status;
    }
    for (place = 0; place < count; place++) {
        kept += mask[place];
    }
    values = out + (count - kept) * item;
    status = decode_planes(file, tensor, kept, values + kept * (item - narrow), &left);
    if (status == FLY_OK) {
        status = fly_widen(dtype, storage, values + kept * (item - narrow), kept, values);
    }
    for (place = 0; place < count && status == FLY_OK; place++, out += item) {
        if (mask[place]) { /* never ahead of the values, whose last belongs at the end or before */
            memmove(out, values, item);
            values += item;
        } else {
            memset(out, 0, item);
        }
    }
    return status;
}
#endif

static fly_status constant_values(const fly_file *file, const fly_tensor *tensor, uint8_t *out) {
    const fly_dtype dtype = (fly_dtype)tensor->dtype;
    const size_t item = fly_item_bytes(dtype), count = (size_t)tensor->elements;
    fly_tensor first;
    uint8_t value[16];
    size_t length, place;
    fly_status status = fly_tensor_at(file, tensor->first, &first);
    const uint8_t *stored = fly_part_of(file, &first, FLY_PART_DENSE, &length);
    if (status == FLY_OK) {
        status = fly_widen(dtype, (fly_dtype)tensor->storage, stored, 1, value);
    }
    for (place = 0; place < count && status == FLY_OK; place++) {
        memcpy(out + item * place, value, item);
    }
    return status;
}

size_t fly_values_workspace(const fly_file *file, const fly_tensor *tensor) {
    size_t size = 0, decoder = 0;
    group found;
    if (is_shared(tensor)) {
        const size_t width = symbol_bytes(tensor->levels), tables = tables_workspace(tensor);
        size = fly_symbols_workspace(file, tensor);
        size = (size > tables ? size : tables) + 8;
        return fly_item_bytes((fly_dtype)tensor->dtype) < width
                   ? size + rounded((size_t)tensor->elements * width)
                   : size;
    }
#ifndef FLY_NO_PLANES
    if (tensor->form == FLY_FORM_PLANES || tensor->form == FLY_FORM_SPARSE) {
        decoder = fly_planes_workspace((fly_dtype)tensor->storage, 0) + 8;
    }
#endif
    if (tensor->form == FLY_FORM_PLANES && find_group(file, tensor, &found) == FLY_OK) {
        size = found.alone ? 0 : rounded(found.count * fly_item_bytes((fly_dtype)tensor->storage));
    }
#ifndef FLY_NO_SPARSE
    if (tensor->form == FLY_FORM_SPARSE) {
        size_t table_length, positions;
        const uint8_t *table = fly_part_of(file, tensor, FLY_PART_TABLES, &table_length);
        positions = fly_positions_workspace(table, table_length, (size_t)tensor->elements, 0) + 8;
        decoder = positions > decoder ? positions : decoder;
        size = rounded((size_t)tensor->elements);
    }
#endif
    return size + decoder;
}

fly_status fly_decode_values(const fly_file *file, const fly_tensor *tensor, void *out, size_t size,
                             void *workspace, size_t workspace_size) {
    const fly_dtype dtype = (fly_dtype)tensor->dtype;
    const size_t count = (size_t)tensor->elements;
    const room left = room_of(workspace, workspace_size);
    size_t length;
    const uint8_t *dense = fly_part_of(file, tensor, FLY_PART_DENSE, &length);
    fly_status status = FLY_UNSUPPORTED;
    if (tensor->elements > size / fly_item_bytes(dtype)) {
        return FLY_SMALL_OUTPUT;
    }
    if (is_shared(tensor)) {
        status = shared_values(file, tensor, out, left);
    } else if (tensor->form == FLY_FORM_RAW) {
        status = fly_widen(dtype, (fly_dtype)tensor->storage, dense, count, out);
    } else if (tensor->form == FLY_FORM_ZERO) {
        memset(out, 0, count * fly_item_bytes(dtype));
        return FLY_OK;
    } else if (tensor->form == FLY_FORM_CONSTANT) {
        status = constant_values(file, tensor, out);
    } else if (tensor->form == FLY_FORM_PLANES) {
        status = planes_values(file, tensor, out, left);
    }
#ifndef FLY_NO_SPARSE
    if (tensor->form == FLY_FORM_SPARSE) {
        status = sparse_values(file, tensor, out, left);
    }
#endif
    turn(out, count, dtype);
    return status;
}
