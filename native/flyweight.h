/* flyweight.h: decoders of .fly files and of their streams, for any C99 program.
 *
 * No function allocates, prints, or keeps state. The caller gives all memory: an output of a stated
 * size, and a workspace whose size a `..._workspace` function tells. Every function returns FLY_OK
 * or the reason for which the bytes were refused; what it has written by then is unspecified but lies
 * within what it was given. Of libc only memcpy, memmove and memset are used.
 *
 * docs/format.md is the specification, docs/device.md explains how to use this in firmware.
 */
#ifndef FLYWEIGHT_H
#define FLYWEIGHT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum fly_status {
    FLY_OK = 0,
    /* any stream */
    FLY_CUT_SHORT = 1,        /* bytes are missing at the end */
    FLY_BYTES_LEFT = 2,       /* bytes follow the end */
    FLY_BAD_VARINT = 3,       /* an integer of more than 63 bits, or padded with zeros */
    FLY_BAD_ARGUMENT = 4,     /* the caller's: an alphabet, item size or count out of range */
    FLY_SMALL_WORKSPACE = 5,  /* the caller's: the workspace is too small */
    FLY_TOO_MANY = 6,         /* more elements than so few bytes may stand for */
    /* Huffman: 100 to 119; rANS: 120 to 139; context: 140 to 159; planes: 160 to 179;
     * positions: 180 to 199; file, header, tensors: 200 to 259 */
    /* Huffman */
    FLY_HUFFMAN_LONG_TABLE = 100, /* for so few symbols */
    FLY_HUFFMAN_NO_TABLE = 101,   /* one is given for an alphabet of one symbol */
    FLY_HUFFMAN_TABLE_CUT = 102,  /* or two runs in a row */
    FLY_HUFFMAN_NUMBER = 103,     /* the table ends within a number */
    FLY_HUFFMAN_INCOMPLETE = 104, /* the Kraft sum is below 1 */
    FLY_HUFFMAN_OVERFULL = 105,   /* or above */
    FLY_HUFFMAN_LENGTH = 106,     /* of a codeword: not 1 to 16 bits */
    FLY_HUFFMAN_TABLE_END = 107,  /* bytes follow the table, or padding that is not zero */
    FLY_HUFFMAN_NOT_EMPTY = 108,  /* a stream of no symbols */
    FLY_HUFFMAN_REPEATED = 109,   /* a payload of one repeated symbol */
    FLY_HUFFMAN_COUNT = 110,      /* so many symbols do not fit in so few bytes */
    FLY_HUFFMAN_STREAMS = 111,    /* longer than the payload */
    FLY_HUFFMAN_END = 112,        /* a stream does not end where its symbols do */
    FLY_HUFFMAN_PADDING = 113,
    /* rANS */
    FLY_RANS_NOT_EMPTY = 120,
    FLY_RANS_NO_SYMBOL = 121,
    FLY_RANS_TABLE_SHORT = 122,
    FLY_RANS_TABLE_LONG = 123,
    FLY_RANS_TABLE_END = 124,
    FLY_RANS_ONE_LANE = 125,
    FLY_RANS_USED = 126,
    FLY_RANS_BEYOND = 127,
    FLY_RANS_WEIGHT = 128,
    FLY_RANS_NO_WEIGHT = 129,
    FLY_RANS_LONE_LANE = 130,
    FLY_RANS_PADDED = 131,
    FLY_RANS_STATES = 132,
    FLY_RANS_LOW_STATE = 133,
    FLY_RANS_END = 134,
    /* planes */
    FLY_PLANES_FORMS = 160,    /* the forms are padded with bits that are not zero */
    FLY_PLANES_UNKNOWN = 161,  /* form of booleans */
    FLY_PLANES_BOOL = 162,     /* a boolean that is neither 0 nor 1 */
    FLY_PLANES_PADDING = 163,  /* of booleans in bits */
    FLY_PLANES_REPEATED = 164, /* a plane of one repeated byte has a code */
    FLY_PLANES_NO_TABLE = 165, /* a plane uses the table before it, and there is none */
    FLY_PLANES_LEFT = 166,     /* bytes follow the last block */
    /* context */
    FLY_CONTEXT_HEADER = 140,     /* thresholds do not ascend, or a number is out of range */
    FLY_CONTEXT_KERNEL = 141,     /* contexts of kernels, and the shape has none */
    FLY_CONTEXT_VALUE = 142,      /* a value outside its alphabet or int32 */
    FLY_CONTEXT_END = 143,        /* not exactly the bytes of these values */
    /* positions */
    FLY_POSITIONS_FORM = 180,     /* unknown */
    FLY_POSITIONS_BITMAP = 181,   /* a payload of another length */
    FLY_POSITIONS_PADDING = 182,
    FLY_POSITIONS_COUNT = 183,    /* no gap, or more than elements */
    FLY_POSITIONS_END = 184,      /* the gaps do not end within the mask */
    /* file */
    FLY_NOT_FLY = 200,            /* the bytes do not begin with FLYW */
    FLY_OTHER_VERSION = 201,      /* a later format */
    FLY_UNKNOWN_FLAGS = 202,
    FLY_BAD_HEADER_LENGTH = 203,  /* so few bytes cannot be so long a header */
    FLY_HEADER_CHECKSUM = 204,
    FLY_FILE_LENGTH = 205,        /* shorter or longer than its header says */
    FLY_BLOCK_COUNT = 206,        /* another number of checksums than of blocks */
    FLY_BLOCK_CHECKSUM = 207,
    FLY_FILE_CHECKSUM = 208,
    FLY_NO_TENSOR = 209,          /* the file holds no such tensor */
    FLY_NO_ENTRY = 210,           /* the metadata hold no such entry */
    FLY_UNSUPPORTED = 211,        /* left out of this build, or a form that this reader cannot read */
    FLY_SMALL_OUTPUT = 212,       /* the caller's: the output is too small */
    /* header; fly_header.wrong holds two numbers for some */
    FLY_METADATA_COUNT = 220,     /* more than so short a header or file may have */
    FLY_TENSOR_COUNT = 221,
    FLY_METADATA_ORDER = 222,     /* a key is repeated or out of order */
    FLY_SHARED_NAME = 223,        /* a name shares more components than the name before it has */
    FLY_NAME_LENGTH = 224,        /* no component, or too many bytes */
    FLY_UNKNOWN_WORD = 225,       /* the number of a component, kind or shape not met before */
    FLY_DOT_IN_WORD = 226,
    FLY_UNKNOWN_KIND = 227,
    FLY_UNKNOWN_SHAPE = 228,
    FLY_BAD_REPETITION = 229,
    FLY_UNKNOWN_FORM = 230,
    FLY_UNKNOWN_DTYPE = 231,
    FLY_BAD_STORAGE = 232,        /* a dtype cannot be stored as another */
    FLY_SCALED_DTYPE = 233,       /* a dtype that cannot have scales */
    FLY_NO_CHANNELS = 234,        /* scales of a tensor without dimensions */
    FLY_BAD_RANK = 235,
    FLY_BAD_SHAPE = 236,          /* more than 2^40 elements */
    FLY_MANY_LEVELS = 237,
    FLY_BAD_ALIAS = 238,          /* of no earlier tensor, or of an alias */
    FLY_ALIAS_DTYPE = 239,
    FLY_ALIAS_SHAPE = 240,
    FLY_NO_GROUP = 241,           /* a tensor follows in a group and there is none */
    FLY_LARGE_GROUP = 242,
    FLY_LONG_NAMES = 243,         /* more bytes in all than so short a file may have */
    FLY_LONG_PARTS = 244,         /* longer than any file */
    FLY_NO_ARCHITECTURE = 245,    /* the file is bare and none was given */
    FLY_OTHER_ARCHITECTURE = 246,
    FLY_BAD_TEXT = 247,           /* not UTF-8; only Python checks it */
    /* tensors */
    FLY_BAD_LEVEL = 250,          /* a symbol beyond the levels, or a wrong count of negative ones */
    FLY_NOT_FINITE = 251,         /* a level, scale or offset is NaN or infinite */
    FLY_BAD_BOOL = 252,           /* a bool that is neither 0 nor 1 */
    FLY_PART_LENGTH = 253,        /* a part of another length than its tensor needs */
    FLY_LAST_STATUS = 259
} fly_status;

/* Data types of tensors, by their number in a file. */
typedef enum fly_dtype {
    FLY_BOOL = 0,
    FLY_UINT8 = 1,
    FLY_INT8 = 2,
    FLY_UINT16 = 3,
    FLY_INT16 = 4,
    FLY_UINT32 = 5,
    FLY_INT32 = 6,
    FLY_UINT64 = 7,
    FLY_INT64 = 8,
    FLY_FLOAT16 = 9,
    FLY_BFLOAT16 = 10,
    FLY_FLOAT32 = 11,
    FLY_FLOAT64 = 12,
    FLY_FLOAT8_E4M3FN = 13,
    FLY_FLOAT8_E5M2 = 14,
    FLY_COMPLEX64 = 15,
    FLY_COMPLEX128 = 16
} fly_dtype;

/* Bytes of a value: 1, 2, 4, 8 or 16; 0 where the number means no type. */
size_t fly_item_bytes(fly_dtype dtype);

/* Which instructions the hot loops may use. All give the same bytes and symbols. */
typedef enum fly_simd { FLY_SCALAR = 0, FLY_AVX2 = 1, FLY_AVX512 = 2, FLY_NEON = 3 } fly_simd;

/* The best of them that this processor has; call it once and keep the answer. */
fly_simd fly_best_simd(void);

/* From symbols (one byte each, or two of this machine's order) to little-endian values: 0 is zero,
 * k is the k-th level, times the scale and plus the offset of its row where these are not NULL, for
 * float16, bfloat16, float32 and, without FLY_NO_DOUBLE, float64. FLY_BAD_ARGUMENT for a symbol
 * above level_count. See dequantize.c. */
size_t fly_dequantize_workspace(fly_dtype dtype, size_t level_count);
fly_status fly_dequantize(fly_dtype dtype, const void *symbols, size_t symbol_bytes, size_t rows,
                          size_t columns, const uint8_t *levels, size_t level_count,
                          const uint8_t *scales, const uint8_t *offsets, uint8_t *workspace,
                          uint8_t *out);

/* ---- Huffman streams: huffman.c ------------------------------------------------------------- */

#define FLY_HUFFMAN_ALPHABET 65536u  /* symbols at most */
#define FLY_HUFFMAN_CHUNK (1u << 20) /* symbols; chunks can be decoded one by one */

/* Bytes of workspace with which `count` symbols are decoded fastest; the least if `count` is 0. */
size_t fly_huffman_workspace(uint32_t alphabet, uint64_t count);

/* Read a table and make a decoder in the workspace, for about `count` symbols. */
fly_status fly_huffman_open(const uint8_t *table, size_t size, uint32_t alphabet, uint64_t count,
                            fly_simd simd, void *workspace, size_t workspace_size);

/* How many symbols of the alphabet are used. */
uint32_t fly_huffman_used(const void *workspace);

/* Decode chunks first to last - 1 of `count` symbols to their places in `out`, which has room for
 * all, `stride` bytes apart. A symbol is one byte, or two of this machine's order if the alphabet
 * is of more than 256. */
fly_status fly_huffman_decode(const void *workspace, const uint8_t *payload, size_t size,
                              uint64_t count, uint64_t first, uint64_t last, size_t stride,
                              void *out);

/* Codeword lengths of a table, one byte for each symbol of the alphabet, 0 if it is not used. */
fly_status fly_huffman_lengths(const uint8_t *table, size_t size, uint32_t alphabet,
                               uint8_t *lengths);

/* How many streams `count` symbols are cut into, and where one begins among the symbols. */
uint64_t fly_huffman_streams(uint64_t count);
uint64_t fly_huffman_begin(uint64_t count, uint64_t stream);

/* ---- Byte planes: planes.c ------------------------------------------------------------------ */

#define FLY_PLANES_BLOCK (1u << 16) /* words: a value is one, a complex value two */
#define FLY_PLANES_CHUNK (1u << 20) /* words; chunks can be decoded one by one */

/* Bytes of workspace with which `count` values are decoded fastest; the least if `count` is 0. */
size_t fly_planes_workspace(fly_dtype dtype, uint64_t count);

/* Decode chunks first to last - 1 of `count` little-endian values to their places in `out`, which
 * has room for all. Only with the last chunk it is checked that no byte follows. */
fly_status fly_planes_decode(fly_dtype dtype, fly_simd simd, const uint8_t *data, size_t size,
                             uint64_t count, uint64_t first, uint64_t last, uint8_t *out,
                             void *workspace, size_t workspace_size);

/* ---- Context coder: context.c -------------------------------------------------------------- */

/* Most elements that a stream of so many bytes may stand for. */
uint64_t fly_context_limit(uint64_t length);

/* Bytes of workspace for a shape: some 6000, and 8 an element of a row, for a small alphabet. An
 * alphabet of 0 means values of int32 in 4 bytes each. 0 for no elements or a bad argument. */
size_t fly_context_workspace(const uint64_t *shape, size_t rank, uint32_t negatives,
                             uint32_t alphabet);

/* Chunks of a stream, which are decoded independently; 0 if its header is unsound. */
size_t fly_context_chunks(const uint8_t *data, size_t length, const uint64_t *shape, size_t rank);

/* Decode `chunks` chunks from number `first` on into their places in `symbols`, which has room for
 * all elements of the shape, symbol_bytes (1, 2 or 4) each. */
fly_status fly_decode_context(const uint8_t *data, size_t length, const uint64_t *shape, size_t rank,
                              uint32_t negatives, uint32_t alphabet, void *symbols,
                              size_t symbol_bytes, size_t first, size_t chunks, void *workspace,
                              size_t workspace_size);

/* ---- Positions: positions.c ---------------------------------------------------------------- */

/* Bytes of workspace to decode a mask of `size`; the least unless `fast`. 0 where it needs none. */
size_t fly_positions_workspace(const uint8_t *table, size_t length, size_t size, int fast);

/* Fill a mask of `size` bytes: 1 where an element is kept, else 0. */
fly_status fly_positions_decode(const uint8_t *table, size_t table_length, const uint8_t *payload,
                                size_t length, size_t size, uint8_t *mask, fly_simd simd,
                                void *workspace, size_t workspace_size);

/* ---- Files: header.c, file.c, widen.c ------------------------------------------------------- */

/* A program that knows its files may define smaller ones; whatever exceeds them is refused. */
#ifndef FLY_MAX_RANK
#define FLY_MAX_RANK 32
#endif
#ifndef FLY_NAME_BYTES
#define FLY_NAME_BYTES 1024
#endif

/* How a tensor is encoded. */
typedef enum fly_form {
    FLY_FORM_SPARSE,
    FLY_FORM_RAW,
    FLY_FORM_CONSTANT,
    FLY_FORM_ALIAS,
    FLY_FORM_ZERO,
    FLY_FORM_HUFFMAN,
    FLY_FORM_RANS,
    FLY_FORM_CONTEXT,
    FLY_FORM_PLANES,
    FLY_FORM_MATCHES
} fly_form;

/* Flags in the kind byte of a tensor, beside its form. */
enum { FLY_MEMBER = 16, FLY_SCALED = 32, FLY_OFFSET = 64 };

/* Parts of a tensor, in their order in the file. */
typedef enum fly_part {
    FLY_PART_TABLES,
    FLY_PART_CODEBOOK,
    FLY_PART_SCALES,
    FLY_PART_OFFSETS,
    FLY_PART_POSITIONS,
    FLY_PART_SYMBOLS,
    FLY_PART_DENSE,
    FLY_PARTS
} fly_part;

/* Names and shapes that a bare file leaves out: of each tensor its name (a varint, its length, and
 * that many bytes), its rank and its extents (varints); and the first bytes of their SHA-256. */
typedef struct fly_architecture {
    const uint8_t *tensors;
    size_t length;
    uint8_t digest[8];
} fly_architecture;

/* A tensor without its values. An alias has the fields of its target, but for `place`. */
typedef struct fly_tensor {
    uint64_t shape[FLY_MAX_RANK];
    uint64_t elements;
    uint64_t lengths[FLY_PARTS]; /* in bytes; of an alias 0 */
    size_t start;                /* of its parts in the payload, which follow in their order */
    uint32_t place;              /* in the file, from 0 */
    uint32_t source;             /* place of the tensor that it repeats, or its own */
    uint32_t first;              /* place of the first tensor of its group, or its source */
    uint32_t rows;               /* if it follows in a group: rows before it; else in the group */
    uint16_t levels;
    uint8_t rank, form, flags, dtype, storage;
    uint8_t parts; /* bit n: it has part n, which may be empty */
} fly_tensor;

/* What the index keeps of a tensor; offsets are in the header, or for a bare one, of name and
 * shape, in the architecture. */
typedef struct fly_entry {
    size_t start;
    uint32_t name, shape, lengths;
    uint32_t link;   /* alias: its target; member: the first; else the next group in a bucket */
    uint32_t rows;   /* as in fly_tensor */
    uint32_t bucket; /* heads of a hash table of groups */
    uint32_t kinds, shapes; /* offset of the n-th kind, the n-th shape of the header */
    uint16_t levels;
    uint8_t form, dtype, storage; /* as in the header: the form with its flags */
} fly_entry;

typedef struct fly_header {
    const uint8_t *data; /* not coded */
    size_t length, metadata_end, tensors_at, file_bytes;
    const fly_architecture *architecture; /* NULL unless bare */
    fly_entry *entries;
    uint32_t *words; /* offsets of the components of names */
    size_t most_words;
    size_t payload;       /* bytes of all parts */
    uint64_t total_bytes; /* of all tensors, decoded; 2^62 or more is only a bound */
    uint32_t tensors;
    int bare;
    uint32_t place; /* where indexing stopped, and two numbers that say why */
    uint64_t wrong[2];
    uint32_t names, met_words, components, name_bytes; /* the name last read, and where */
    char name[FLY_NAME_BYTES + 1];
} fly_header;

/* Its name, such as "float32", or "?". */
const char *fly_dtype_name(uint64_t dtype);

typedef struct fly_text {
    const char *bytes; /* UTF-8, no zero at its end */
    size_t length;
} fly_text;

/* Begin to read a header of `length` bytes that is not coded, of a file of `file_bytes`. It must
 * stay where it is. */
fly_status fly_header_open(fly_header *header, const uint8_t *data, size_t length, int bare,
                           size_t file_bytes);

/* Give the entry of the metadata that begins at offset *at, 0 for the first, and move *at behind
 * it; FLY_NO_ENTRY after the last. */
fly_status fly_header_metadata(const fly_header *header, size_t *at, fly_text *key, fly_text *value);

/* Bytes of workspace that fly_header_index needs at most; 0 if the header announces too many. */
size_t fly_header_workspace(const fly_header *header, const fly_architecture *architecture);

/* Check all tensors and make an index of them in the workspace, which must stay where it is.
 * Whether names repeat is left to the caller. *used is how many bytes of it the index takes. */
fly_status fly_header_index(fly_header *header, const fly_architecture *architecture,
                            void *workspace, size_t size, size_t *used);

/* Describe the tensor at a place below header->tensors. */
fly_status fly_header_tensor(const fly_header *header, uint32_t place, fly_tensor *tensor);

/* The name of the tensor at a place below header->tensors, ended by a zero, until the next call;
 * fast if places ascend. header->name_bytes is its length. */
const char *fly_header_name(fly_header *header, uint32_t place);

/* ---- rANS streams ----
 *
 * fly_rans_open reads a table into the workspace, fly_rans_decode then decodes chunks, in any order,
 * by several threads if they like: a fly_rans does not change. */
typedef struct fly_rans {
    const uint8_t *payload;
    size_t length;           /* of the payload, in bytes */
    uint64_t count;          /* of symbols */
    uint64_t chunks;
    const uint32_t *entries; /* of each used symbol: symbol << 16 | cumulative frequency */
    const uint32_t *slots;   /* what each slot means, or NULL */
    uint32_t used;           /* symbols; without a payload, the symbol that is repeated */
    uint32_t alphabet;
    uint32_t bits;           /* of probability */
    uint32_t lanes;
} fly_rans;

/* The workspace for a stream with this table, in words of 4 bytes: at most alphabet + 1 of them, or,
 * if `fast`, a slot table besides, of 4 bytes for each of 2**bits slots (9 to 12 bits and an alphabet
 * of at most 256) or 8 bytes for each (at most 16 bits). Without it each symbol is searched for. */
size_t fly_rans_workspace(const uint8_t *table, size_t length, uint32_t alphabet, int fast);

/* Read the table of a stream of `count` symbols of an alphabet of 1 to 65,536; keep the payload and
 * the workspace as long as the stream is in use. */
fly_status fly_rans_open(fly_rans *rans, const uint8_t *table, size_t table_length,
                         const uint8_t *payload, size_t length, uint64_t count, uint32_t alphabet,
                         uint32_t *workspace, size_t words);

/* Decode the chunks from `first` to before `last` (0 to rans->chunks: all) into `out`, which has room
 * for so many symbols: bytes if the alphabet is at most 256, otherwise of two bytes each. */
fly_status fly_rans_decode(const fly_rans *rans, uint64_t first, uint64_t last, void *out,
                           size_t room, fly_simd simd);

/* Read a table alone, into at most min(alphabet, 2**16) + 1 words; for encoders. */
fly_status fly_rans_read_table(fly_rans *rans, const uint8_t *table, size_t length,
                               uint32_t alphabet, uint32_t *workspace, size_t words);

/* CRC-32 of what had the CRC `before` (0 for nothing) and `length` bytes more. */
uint32_t fly_crc32(uint32_t before, const uint8_t *data, size_t length);

/* From little-endian values as stored to such of their dtype; see widen.c. `stored` may be the end
 * of `out`. FLY_NOT_FINITE for a NaN or an infinity that no writer stores in fewer bits. */
fly_status fly_widen(fly_dtype dtype, fly_dtype storage, const uint8_t *stored, size_t count,
                     uint8_t *out);

/* A file in memory, such as flash. FLY_NO_HUFFMAN, FLY_NO_RANS, FLY_NO_CONTEXT, FLY_NO_PLANES,
 * FLY_NO_SPARSE, FLY_NO_GROUPS and FLY_NO_DOUBLE leave out what decodes such tensors, which are then
 * refused with FLY_UNSUPPORTED; the header of a file is Huffman-coded too. */
typedef struct fly_file {
    const uint8_t *data;
    size_t length, checks, payload; /* offsets of the checksums of blocks, of the tensors' parts */
    size_t used;                    /* bytes that the index takes of its workspace */
    fly_header header;
} fly_file;

/* Bytes of workspace that fly_open needs at most; 0 if this is no file. */
size_t fly_open_workspace(const uint8_t *data, size_t length, const fly_architecture *architecture);

/* Check what stands before the parts of the tensors, and make an index of the tensors. File,
 * architecture (NULL if the file is not bare) and workspace must stay where they are. Of the
 * workspace, the first file->used bytes are in use from then on. */
fly_status fly_open(fly_file *file, const uint8_t *data, size_t length,
                    const fly_architecture *architecture, void *workspace, size_t size);

/* Compare the checksum of the whole file; of the block of tensors that a tensor is in. */
fly_status fly_check_file(const fly_file *file);
fly_status fly_check_tensor(const fly_file *file, const fly_tensor *tensor);

/* The value of a key of the metadata. */
fly_status fly_find_metadata(const fly_file *file, const char *key, fly_text *value);

/* Describe a tensor by its place, from 0, or by its name. */
fly_status fly_tensor_at(const fly_file *file, uint32_t place, fly_tensor *tensor);
fly_status fly_find_tensor(fly_file *file, const char *name, fly_tensor *tensor);

/* The bytes of a part of a tensor; *length is 0 where it has none. */
const uint8_t *fly_part_of(const fly_file *file, const fly_tensor *tensor, fly_part part,
                           size_t *length);

/* Write levels, scales or offsets of a shared tensor to `out`, as its dtype. */
fly_status fly_decode_table(const fly_file *file, const fly_tensor *tensor, fly_part part, void *out,
                            size_t size);

/* Write the symbols of a shared tensor to `out`: bytes if it has at most 255 levels, else of 16 bits.
 * fly_symbols_workspace tells how many bytes of workspace that needs. */
size_t fly_symbols_workspace(const fly_file *file, const fly_tensor *tensor);
fly_status fly_decode_symbols(const fly_file *file, const fly_tensor *tensor, void *out, size_t size,
                              void *workspace, size_t workspace_size);

/* Write the values of any tensor to `out`, in the byte order of the machine: elements times
 * fly_item_bytes(dtype), aligned as such values are. */
size_t fly_values_workspace(const fly_file *file, const fly_tensor *tensor);
fly_status fly_decode_values(const fly_file *file, const fly_tensor *tensor, void *out, size_t size,
                             void *workspace, size_t workspace_size);

#ifdef __cplusplus
}
#endif
#endif
