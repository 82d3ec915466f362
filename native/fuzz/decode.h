/* decode.h: give any bytes to the decoders; what fuzz_file.c and replay.c share.
 *
 * An input is a whole file, whose header checksum is set right, or a stream: 16 bytes that choose
 * decoder and arguments (see stream_input), then a table and a payload. Streams are decoded by scalar
 * and by vector code, which must agree. Memory is allocated to the byte, so that sanitizers see
 * whatever goes beyond it.
 */
#include <stdio.h>
#include <stdlib.h>

#include "../bytes.h"

#define MOST_OUT ((uint64_t)1 << 23)  /* bytes of a stream, decoded */
#define MOST_FILE ((uint64_t)1 << 19) /* of all tensors, and workspace */

static void *bytes_of(uint64_t size) {
    void *memory = malloc(size == 0 ? 1 : (size_t)size);
    if (memory == NULL) {
        abort();
    }
    memset(memory, 0, (size_t)size);
    return memory;
}

/* Arguments that an input chooses. */
typedef struct stream_input {
    unsigned decoder, flags;
    uint64_t count;
    uint32_t alphabet, negatives;
    uint64_t shape[4];
    size_t rank;
    const uint8_t *table, *payload;
    size_t table_length, length;
} stream_input;

static int read_input(const uint8_t *data, size_t size, stream_input *in) {
    uint64_t product = 1;
    if (size < 16) {
        return 0;
    }
    in->decoder = data[0];
    in->flags = data[1];
    in->count = fly_load32(data + 2) & (in->flags & 0x80 ? 0x3FFFFFu : 0xFFFFu);
    in->alphabet = fly_load16(data + 6) + 1u;
    in->negatives = fly_load16(data + 8);
    in->table_length = fly_load16(data + 10);
    in->rank = data[1] & 3;
    in->rank += in->rank == 3 && (data[1] & 4) != 0;
    for (size_t axis = 0; axis < in->rank; axis++) {
        in->shape[axis] = data[12 + axis];
        product *= in->shape[axis];
    }
    if (in->rank != 0) {
        in->count = product & (in->flags & 0x80 ? 0x3FFFFFu : 0xFFFFu);
    }
    if (in->table_length > size - 16) {
        in->table_length = size - 16;
    }
    /* Copies of their own, so that nothing follows or precedes them. */
    in->length = size - 16 - in->table_length;
    in->table = memcpy(bytes_of(in->table_length), data + 16, in->table_length);
    in->payload = memcpy(bytes_of(in->length), data + 16 + in->table_length, in->length);
    return 1;
}

static size_t symbol_size(uint32_t alphabet) { return alphabet <= 256 ? 1 : 2; }

static fly_status decode_huffman(const stream_input *in, void *out, fly_simd simd) {
    const size_t size = fly_huffman_workspace(in->alphabet, in->flags & 8 ? in->count : 0);
    const size_t stride = symbol_size(in->alphabet);
    const uint64_t chunks = (in->count + FLY_HUFFMAN_CHUNK - 1) / FLY_HUFFMAN_CHUNK;
    void *workspace = bytes_of(size);
    fly_status status = in->count == 0 ? FLY_CUT_SHORT
                                       : fly_huffman_open(in->table, in->table_length, in->alphabet,
                                                          in->count, simd, workspace, size);
    if (status == FLY_OK) {
        status = fly_huffman_decode(workspace, in->payload, in->length, in->count, 0, chunks, stride,
                                    out);
    }
    free(workspace);
    return status;
}

static fly_status decode_rans(const stream_input *in, void *out, fly_simd simd) {
    fly_rans rans;
    const size_t words =
        fly_rans_workspace(in->table, in->table_length, in->alphabet, (in->flags & 8) != 0);
    uint32_t *workspace = bytes_of(4 * (uint64_t)words);
    fly_status status = fly_rans_open(&rans, in->table, in->table_length, in->payload, in->length,
                                      in->count, in->alphabet, workspace, words);
    if (status == FLY_OK) {
        status = fly_rans_decode(&rans, 0, rans.chunks, out, (size_t)in->count, simd);
    }
    free(workspace);
    return status;
}

static fly_status decode_context(const stream_input *in, void *out, fly_simd simd) {
    const uint64_t line[1] = {in->count};
    const uint64_t *shape = in->rank == 0 ? line : in->shape;
    const size_t rank = in->rank == 0 ? 1 : in->rank;
    const size_t size = fly_context_workspace(shape, rank, in->negatives, in->alphabet);
    const size_t chunks = fly_context_chunks(in->payload, in->length, shape, rank);
    uint64_t product = 1;
    void *workspace;
    fly_status status;
    size_t place;
    for (place = 0; place < rank; place++) {
        product *= shape[place];
    }
    if (product != in->count) { /* it was cut, and the output is of the count */
        return FLY_BAD_ARGUMENT;
    }
    workspace = bytes_of(size);
    status =
        fly_decode_context(in->payload, in->length, shape, rank, in->negatives, in->alphabet, out,
                           symbol_size(in->alphabet), 0, chunks, workspace, size);
    (void)simd;
    free(workspace);
    return status;
}

static fly_status decode_planes(const stream_input *in, void *out, fly_simd simd) {
    const fly_dtype dtype = (fly_dtype)(in->negatives % 17);
    const size_t size = fly_planes_workspace(dtype, in->flags & 8 ? in->count : 0);
    void *workspace = bytes_of(size);
    const uint64_t chunks = (in->count + ((uint64_t)1 << 20) - 1) >> 20;
    const fly_status status = fly_planes_decode(dtype, simd, in->payload, in->length, in->count, 0,
                                                chunks, out, workspace, size);
    free(workspace);
    return status;
}

static fly_status decode_positions(const stream_input *in, void *out, fly_simd simd) {
    const size_t count = (size_t)in->count;
    const size_t size =
        fly_positions_workspace(in->table, in->table_length, count, (in->flags & 8) != 0);
    void *workspace = bytes_of(size);
    const fly_status status = fly_positions_decode(in->table, in->table_length, in->payload, in->length,
                                                   count, out, simd, workspace, size);
    free(workspace);
    return status;
}

/* Index a header that is not coded; the table is the architecture of a bare one. */
static fly_status index_header(const stream_input *in) {
    static fly_header header;
    fly_architecture known = {NULL, 0, {0}};
    const int bare = (in->flags & 8) != 0;
    size_t used, size = 0;
    void *workspace;
    fly_tensor tensor;
    fly_status status = fly_header_open(&header, in->payload, in->length, bare, in->length);
    if (status != FLY_OK) {
        return status;
    }
    known.tensors = in->table;
    known.length = in->table_length;
    if (bare && in->length - header.tensors_at >= 8) {
        memcpy(known.digest, in->payload + header.tensors_at, 8);
    }
    size = fly_header_workspace(&header, bare ? &known : NULL);
    workspace = bytes_of(size);
    status = fly_header_index(&header, bare ? &known : NULL, workspace, size, &used);
    for (uint32_t place = 0; status == FLY_OK && place < header.tensors; place++) {
        status = fly_header_tensor(&header, place, &tensor);
        (void)fly_header_name(&header, header.tensors - 1 - place);
    }
    free(workspace);
    return status;
}

static void decode_stream(const uint8_t *data, size_t size) {
    static fly_status (*const decoders[])(const stream_input *, void *, fly_simd) = {
        decode_huffman, decode_rans, decode_context, decode_planes, decode_positions,
    };
    stream_input in;
    if (!read_input(data, size, &in)) {
        return;
    }
    if (in.decoder % 6 == 5) {
        (void)index_header(&in);
    } else {
        const size_t item = in.decoder % 6 == 3 ? fly_item_bytes((fly_dtype)(in.negatives % 17))
                            : in.decoder % 6 == 4 ? 1 : symbol_size(in.alphabet);
        uint64_t room;
        uint8_t *one, *other;
        if (in.count * item > MOST_OUT) {
            in.count = MOST_OUT / item;
        }
        room = in.count * item;
        one = bytes_of(room);
        other = bytes_of(room);
        const fly_status status = decoders[in.decoder % 6](&in, one, FLY_SCALAR);
        if (decoders[in.decoder % 6](&in, other, fly_best_simd()) != status ||
            (status == FLY_OK && memcmp(one, other, (size_t)room) != 0)) {
            fprintf(stderr, "scalar and vector code of decoder %u disagree\n", in.decoder % 6);
            abort();
        }
        free(one);
        free(other);
    }
    free((void *)in.table);
    free((void *)in.payload);
}

/* Set the checksum of the head right. */
static void seal(uint8_t *data, size_t size) {
    fly_bytes in = fly_bytes_of(data, size);
    const uint8_t *start = fly_take(&in, 6);
    uint64_t stored, checks;
    if (start == NULL) {
        return;
    }
    stored = fly_varint(&in);
    if (start[5] & 1) {
        (void)fly_varint(&in);
        (void)fly_varint(&in);
    }
    checks = fly_varint(&in);
    if (in.status == FLY_OK && stored < size && checks < size &&
        stored + 4 * checks + 4 <= fly_left(&in)) {
        const size_t end = (size_t)(in.at - data) + (size_t)(stored + 4 * checks);
        fly_store32(data + end, fly_crc32(0, data, end));
    }
}

static void decode_file(const uint8_t *given, size_t length) {
    static fly_file file;
    uint8_t *data = memcpy(bytes_of(length), given, length);
    size_t size;
    void *workspace;
    fly_text value;
    uint64_t left = MOST_FILE;
    seal(data, length);
    size = fly_open_workspace(data, length, NULL);
    workspace = bytes_of(size);
    if (fly_open(&file, data, length, NULL, workspace, size) == FLY_OK) {
        (void)fly_check_file(&file);
        (void)fly_find_metadata(&file, "architecture", &value);
        for (uint32_t place = 0; place < file.header.tensors && left > 0; place++) {
            fly_tensor tensor;
            uint64_t bytes;
            size_t room;
            if (fly_tensor_at(&file, place, &tensor) != FLY_OK) {
                abort();
            }
            bytes = tensor.elements * fly_item_bytes((fly_dtype)tensor.dtype);
            (void)fly_check_tensor(&file, &tensor);
            room = fly_values_workspace(&file, &tensor);
            if (bytes < left && room < left - bytes) { /* room for all values of a group, if in one */
                void *out = bytes_of(bytes), *own = bytes_of(room);
                (void)fly_decode_values(&file, &tensor, out, (size_t)bytes, own, room);
                free(own);
                free(out);
                left -= bytes + room;
            }
        }
    }
    free(workspace);
    free(data);
}

static void decode_any(const uint8_t *data, size_t size) {
    if (size >= 4 && memcmp(data, "FLYW", 4) == 0) {
        decode_file(data, size);
    } else {
        decode_stream(data, size);
    }
}
