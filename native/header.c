/* header.c: read the header of a file: metadata, names, kinds, shapes, lengths of parts, groups.
 *
 * All tensors are checked once, in order, and an index keeps where the fields of each stand; a
 * tensor is described from these when it is asked for. Nothing else of the header is copied.
 */
#include "bytes.h"

#define NONE UINT32_MAX
#define DTYPES (FLY_COMPLEX128 + 1)
#define MAX_ELEMENTS ((uint64_t)1 << 40)
#define MAX_GROUPED ((uint64_t)1 << 20)
#define MAX_LEVELS 65535u
#define FREE_ENTRIES 4096 /* tensors, or strings of metadata, that any file may have */
#define BYTES_PER_ENTRY 64 /* of the file, for each one more */
#define FREE_NAME_BYTES 131072 /* of all tensors, and 2 for each byte of the file */
#define MIXER 0x9E3779B97F4A7C15u

static const fly_text usual_keys[2] = {{"architecture", 12}, {"recipe", 6}};

/* Bit n: the dtype may be stored as dtype n, beside itself. */
static const uint16_t narrower[DTYPES] = {
    0, 0, 0, 0, 0x6, 0, 0x1E, 0, 0x7E, 0, 0, 0x6600, 0xA00, 0, 0, 0, 0,
};

/* Not inlined: these are called from many places, and no loop over elements calls them. */
static uint64_t varint(fly_bytes *in) { return fly_varint(in); }

static const uint8_t *string(fly_bytes *in, size_t *length) {
    const uint64_t stated = varint(in);
    const uint8_t *bytes = fly_take(in, stated > SIZE_MAX ? SIZE_MAX : (size_t)stated);
    *length = bytes == NULL ? 0 : (size_t)stated;
    return bytes;
}

static fly_status refuse(fly_header *header, fly_status status, uint64_t first, uint64_t second) {
    header->wrong[0] = first;
    header->wrong[1] = second;
    return status;
}

static int is_shared(unsigned form) {
    return (form & 15) >= FLY_FORM_HUFFMAN && (form & 15) <= FLY_FORM_CONTEXT;
}

/* Whether tensors of a form can be in a group. */
static int may_group(unsigned form) {
    return is_shared(form) || (form & 15) == FLY_FORM_CONSTANT || (form & 15) == FLY_FORM_PLANES;
}

/* The bytes from an offset on of the header, or of the architecture in a bare one's place. */
static fly_bytes from(const fly_header *header, uint32_t offset) {
    const fly_architecture *known = header->architecture;
    const fly_bytes all = known != NULL ? fly_bytes_of(known->tensors, known->length)
                                        : fly_bytes_of(header->data, header->length);
    fly_bytes rest = all;
    rest.at += offset;
    return rest;
}

/* ---- Metadata ---- */

static fly_status read_entry(fly_bytes *in, fly_text *key, fly_text *value) {
    const uint64_t number = varint(in);
    size_t length;
    if (number < 2) {
        *key = usual_keys[number];
    } else {
        key->length = number - 2 > SIZE_MAX ? SIZE_MAX : (size_t)(number - 2);
        key->bytes = (const char *)fly_take(in, key->length);
    }
    value->bytes = (const char *)string(in, &length);
    value->length = length;
    return in->status;
}

/* Whether key a stands before key b, by their bytes and so by their code points. */
static int ascends(const fly_text *a, const fly_text *b) {
    const size_t length = a->length < b->length ? a->length : b->length;
    size_t index;
    for (index = 0; index < length; index++) {
        if (a->bytes[index] != b->bytes[index]) {
            return (uint8_t)a->bytes[index] < (uint8_t)b->bytes[index];
        }
    }
    return a->length < b->length;
}

fly_status fly_header_metadata(const fly_header *header, size_t *at, fly_text *key,
                               fly_text *value) {
    fly_bytes in = fly_bytes_of(header->data, header->metadata_end);
    if (*at == 0) {
        varint(&in); /* how many there are */
    } else {
        in.at += *at;
    }
    if (fly_left(&in) == 0) {
        return FLY_NO_ENTRY;
    }
    read_entry(&in, key, value);
    *at = (size_t)(in.at - header->data);
    return in.status;
}

/* How many tensors or strings of metadata `left` bytes of a header can be, each of `least`. */
static uint64_t most_entries(size_t left, size_t least, size_t file_bytes) {
    const size_t most = FREE_ENTRIES + file_bytes / BYTES_PER_ENTRY;
    return left / least < most ? left / least : most;
}

fly_status fly_header_open(fly_header *header, const uint8_t *data, size_t length, int bare,
                           size_t file_bytes) {
    fly_bytes in = fly_bytes_of(data, length);
    fly_text key = {"", 0}, before, value;
    uint64_t count, index, most;
    memset(header, 0, sizeof *header);
    header->data = data;
    header->length = length;
    header->bare = bare;
    header->file_bytes = file_bytes;
    if (length >= NONE) {
        return FLY_TOO_MANY;
    }
    count = varint(&in);
    most = most_entries(fly_left(&in), 2, file_bytes);
    if (in.status == FLY_OK && count > most) {
        return refuse(header, FLY_METADATA_COUNT, count, most);
    }
    for (index = 0; index < count; index++) {
        before = key;
        if (read_entry(&in, &key, &value) != FLY_OK) {
            return in.status;
        }
        if (index != 0 && !ascends(&before, &key)) {
            return refuse(header, FLY_METADATA_ORDER, 0, 0);
        }
    }
    header->metadata_end = (size_t)(in.at - data);
    count = varint(&in);
    /* A tensor has three bytes at least; a bare one may have none. */
    most = most_entries(bare ? NONE - 1 : fly_left(&in), bare ? 1 : 3, file_bytes);
    if (in.status == FLY_OK && count > most) {
        return refuse(header, FLY_TENSOR_COUNT, count, most);
    }
    header->tensors = (uint32_t)count;
    header->tensors_at = (size_t)(in.at - data);
    return in.status;
}

/* ---- Names ---- */

/* Shorten the name last read to its first components. */
static void cut_name(fly_header *header, uint64_t components) {
    uint32_t at, dots = 0;
    for (at = 0; at < header->name_bytes && components < header->components; at++) {
        dots += header->name[at] == '.';
        if (components == 0 || dots == components) {
            header->name_bytes = at;
        }
    }
    header->components = (uint32_t)components;
}

static fly_status append(fly_header *header, const uint8_t *bytes, size_t length) {
    const uint32_t dot = header->components != 0;
    if (length > FLY_NAME_BYTES - dot || header->name_bytes > FLY_NAME_BYTES - dot - length) {
        return refuse(header, FLY_NAME_LENGTH, FLY_NAME_BYTES, 0);
    }
    if (dot) {
        header->name[header->name_bytes++] = '.';
    }
    memcpy(header->name + header->name_bytes, bytes, length);
    header->name_bytes += (uint32_t)length;
    header->components++;
    return FLY_OK;
}

static fly_status append_word(fly_header *header, fly_bytes *in) {
    const uint64_t number = varint(in);
    const uint8_t *bytes;
    size_t length, dot = 0;
    if (number > header->met_words) {
        return refuse(header, FLY_UNKNOWN_WORD, number, header->met_words);
    }
    if (number == header->met_words) {
        if (number == header->most_words) {
            return FLY_SMALL_WORKSPACE;
        }
        header->words[header->met_words++] = (uint32_t)(in->at - header->data);
        bytes = string(in, &length);
        while (bytes != NULL && dot < length && bytes[dot] != '.') {
            dot++;
        }
        if (dot != length) {
            return refuse(header, FLY_DOT_IN_WORD, 0, 0);
        }
    } else {
        fly_bytes earlier = fly_bytes_of(header->data, header->length);
        earlier.at += header->words[number];
        bytes = string(&earlier, &length);
    }
    return bytes == NULL ? in->status : append(header, bytes, length);
}

/* Read the name of the next tensor after those read so far, from the header or architecture. */
static fly_status read_name(fly_header *header, fly_bytes *in) {
    fly_status status = FLY_OK;
    if (header->bare) {
        size_t length;
        const uint8_t *bytes = string(in, &length);
        cut_name(header, 0);
        status = bytes == NULL ? in->status : append(header, bytes, length);
    } else {
        const uint64_t shared = varint(in);
        uint64_t own = varint(in);
        if (shared > header->components) {
            return refuse(header, FLY_SHARED_NAME, shared, header->components);
        }
        if (shared + own == 0) {
            return refuse(header, FLY_NAME_LENGTH, FLY_NAME_BYTES, 0);
        }
        cut_name(header, shared);
        for (; own != 0 && status == FLY_OK; own--) {
            status = append_word(header, in);
        }
    }
    header->name[header->name_bytes] = '\0';
    header->names++;
    return status == FLY_OK ? in->status : status;
}

static void forget_names(fly_header *header) {
    header->names = header->met_words = header->components = header->name_bytes = 0;
    header->name[0] = '\0';
}

const char *fly_header_name(fly_header *header, uint32_t place) {
    if (place < header->tensors) {
        if (header->names > place + 1) {
            forget_names(header);
        }
        while (header->names <= place) {
            fly_bytes in = from(header, header->entries[header->names].name);
            if (read_name(header, &in) != FLY_OK) {
                break; /* cannot be: the index was made of them */
            }
        }
    }
    return header->name;
}

/* ---- Tensors ---- */

/* Read rank, extents and number of elements of a shape. */
static fly_status read_shape(fly_bytes *in, fly_tensor *tensor, uint64_t *rank) {
    uint64_t product = 1; /* of the extents, each counted as 1 at least */
    unsigned axis;
    *rank = varint(in);
    if (*rank > FLY_MAX_RANK) {
        return FLY_BAD_RANK;
    }
    tensor->rank = (uint8_t)*rank;
    tensor->elements = 1;
    for (axis = 0; axis < tensor->rank; axis++) {
        const uint64_t extent = varint(in);
        tensor->shape[axis] = extent;
        /* No division: 64-bit ones take code on a 32-bit device. Below, no product overflows. */
        if (extent > MAX_ELEMENTS || (extent >> 20) * (product >> 20) > 1) {
            return FLY_BAD_SHAPE;
        }
        product *= extent == 0 ? 1 : extent;
        if (product > MAX_ELEMENTS) {
            return FLY_BAD_SHAPE;
        }
        tensor->elements *= extent;
    }
    return in->status;
}

static void set_length(fly_tensor *tensor, fly_part part, uint64_t length) {
    tensor->lengths[part] = length;
    tensor->parts = (uint8_t)(tensor->parts | 1u << part);
}

/* Find the length of each part of a tensor whose other fields are set; `in` is where the header
 * states those that do not follow from them. */
static void read_lengths(fly_tensor *tensor, fly_bytes *in) {
    const uint64_t item = fly_item_bytes((fly_dtype)tensor->storage);
    const int own = (tensor->flags & FLY_MEMBER) == 0;
    memset(tensor->lengths, 0, sizeof tensor->lengths);
    tensor->parts = 0;
    if (is_shared(tensor->form)) {
        set_length(tensor, FLY_PART_CODEBOOK, tensor->levels * item);
        if (tensor->flags & FLY_SCALED) {
            set_length(tensor, FLY_PART_SCALES, tensor->shape[0] * item);
        }
        if (tensor->flags & FLY_OFFSET) {
            set_length(tensor, FLY_PART_OFFSETS, tensor->shape[0] * item);
        }
        if (own) {
            set_length(tensor, FLY_PART_TABLES, varint(in));
            set_length(tensor, FLY_PART_SYMBOLS, varint(in));
        }
        return;
    }
    if (tensor->form == FLY_FORM_SPARSE) {
        set_length(tensor, FLY_PART_TABLES, varint(in));
        set_length(tensor, FLY_PART_POSITIONS, varint(in));
    }
    if (tensor->form == FLY_FORM_ALIAS || !own) {
        return;
    }
    if (tensor->form == FLY_FORM_RAW) {
        set_length(tensor, FLY_PART_DENSE, tensor->elements * item);
    } else if (tensor->form == FLY_FORM_CONSTANT || tensor->form == FLY_FORM_ZERO) {
        set_length(tensor, FLY_PART_DENSE, tensor->form == FLY_FORM_ZERO ? 0 : item);
    } else {
        set_length(tensor, FLY_PART_DENSE, varint(in));
    }
}

/* Describe the tensor of an entry that is no alias; *end is where its fields in the header end. */
static fly_status describe(const fly_header *header, uint32_t place, fly_tensor *tensor,
                           const uint8_t **end, uint64_t *rank) {
    const fly_entry *entry = &header->entries[place];
    fly_bytes in = from(header, entry->shape);
    fly_status status = read_shape(&in, tensor, rank);
    tensor->place = tensor->source = tensor->first = place;
    tensor->form = entry->form & 15;
    tensor->flags = entry->form & 0xF0;
    tensor->dtype = entry->dtype;
    tensor->storage = entry->storage;
    tensor->levels = entry->levels;
    tensor->start = entry->start;
    tensor->rows = entry->rows;
    if (tensor->flags & FLY_MEMBER) {
        tensor->first = entry->link;
    }
    if (status != FLY_OK || (tensor->rank == 0 && (tensor->flags & FLY_SCALED))) {
        return status != FLY_OK ? status : FLY_NO_CHANNELS;
    }
    in = fly_bytes_of(header->data, header->length);
    in.at += entry->lengths;
    read_lengths(tensor, &in);
    *end = in.at;
    return in.status;
}

fly_status fly_header_tensor(const fly_header *header, uint32_t place, fly_tensor *tensor) {
    const uint8_t *end;
    uint64_t rank;
    fly_status status;
    if (place >= header->tensors) {
        return FLY_NO_TENSOR;
    }
    if (header->entries[place].form != FLY_FORM_ALIAS) {
        return describe(header, place, tensor, &end, &rank);
    }
    status = describe(header, header->entries[place].link, tensor, &end, &rank);
    tensor->place = place;
    return status;
}

/* Check the three bytes of a kind. */
static fly_status check_kind(fly_header *header, const uint8_t *kind) {
    const unsigned form = kind[0] & 15, flags = kind[0] & 0xF0u, dtype = kind[1], storage = kind[2];
    const unsigned largest = dtype > storage ? dtype : storage;
    if (form > FLY_FORM_MATCHES || ((flags & FLY_MEMBER) && !may_group(form)) ||
        ((flags & FLY_OFFSET) && !(flags & FLY_SCALED)) ||
        ((flags & FLY_SCALED) && !is_shared(form)) || (flags & 128)) {
        return refuse(header, FLY_UNKNOWN_FORM, kind[0], 0);
    }
    if (largest >= DTYPES) {
        return refuse(header, FLY_UNKNOWN_DTYPE, largest, 0);
    }
    if (dtype != storage && (narrower[dtype] >> storage & 1) == 0) {
        return refuse(header, FLY_BAD_STORAGE, dtype, storage);
    }
    if ((flags & FLY_SCALED) && (dtype < FLY_FLOAT16 || dtype > FLY_FLOAT64)) {
        return refuse(header, FLY_SCALED_DTYPE, dtype, 0);
    }
    return FLY_OK;
}

/* ---- Groups ---- */

/* Whether a tensor and that of an entry can be in one group. */
static int same_group(const fly_header *header, const fly_entry *entry, const fly_tensor *tensor) {
    const unsigned own = ~(unsigned)FLY_MEMBER;
    fly_bytes in = from(header, entry->shape);
    unsigned axis;
    if ((entry->form & own) != ((tensor->form | tensor->flags) & own) ||
        entry->dtype != tensor->dtype || entry->storage != tensor->storage ||
        varint(&in) != tensor->rank) {
        return 0;
    }
    varint(&in); /* the first extent may differ */
    for (axis = 1; axis < tensor->rank && varint(&in) == tensor->shape[axis]; axis++) {
    }
    return axis == tensor->rank;
}

/* The link that leads to the last first tensor of the group, or to no tensor. */
static uint32_t *find_group(const fly_header *header, const fly_tensor *tensor) {
    uint64_t hash = (uint64_t)tensor->form << 24 | (uint64_t)tensor->dtype << 16 | tensor->storage;
    unsigned axis;
    uint32_t *link;
    for (axis = 1; axis < tensor->rank; axis++) {
        hash = (hash ^ tensor->shape[axis]) * MIXER;
        hash ^= hash >> 29;
    }
    link = &header->entries[(uint32_t)(hash * MIXER >> 32) % header->tensors].bucket;
    while (*link != NONE && !same_group(header, &header->entries[*link], tensor)) {
        link = &header->entries[*link].link;
    }
    return link;
}

/* Add a tensor to the group that it follows in, or begin the group that others may follow in. */
static fly_status place_in_group(fly_header *header, fly_entry *entry, const fly_tensor *tensor) {
    const uint64_t extent = tensor->rank == 0 ? 0 : tensor->shape[0];
    uint32_t *link;
    fly_entry *first;
    if ((tensor->flags & FLY_MEMBER) == 0) {
        entry->rows = (uint32_t)(extent > MAX_GROUPED ? MAX_GROUPED + 1 : extent);
        if (may_group(tensor->form) && tensor->rank != 0) {
            link = find_group(header, tensor);
            entry->link = *link == NONE ? NONE : header->entries[*link].link;
            *link = tensor->place;
        }
        return FLY_OK;
    }
    link = tensor->elements == 0 || tensor->rank == 0 ? NULL : find_group(header, tensor);
    if (link == NULL || *link == NONE || header->entries[*link].rows == 0) {
        return FLY_NO_GROUP;
    }
    first = &header->entries[*link];
    if (tensor->elements > MAX_GROUPED ||
        (first->rows + extent) * ((uint32_t)tensor->elements / (uint32_t)extent) > MAX_GROUPED) {
        return FLY_LARGE_GROUP;
    }
    entry->link = *link;
    entry->rows = first->rows;
    first->rows += (uint32_t)extent;
    return FLY_OK;
}

/* ---- The index ---- */

/* A repetition, and how many kinds and shapes are known so far. */
typedef struct progress {
    uint64_t period, repeated;
    uint32_t kinds, shapes;
} progress;

/* Read the kind of a tensor; *again tells whether it is that of an earlier one. */
static fly_status read_kind(fly_header *header, fly_bytes *in, progress *so_far, int *again) {
    fly_entry *entry = &header->entries[header->place];
    const uint8_t *kind;
    uint64_t number = 0;
    if (so_far->repeated == 0) {
        number = varint(in);
        if (number == (uint64_t)so_far->kinds + 1) {
            so_far->period = varint(in);
            so_far->repeated = varint(in);
            if (so_far->period < 1 || so_far->period > header->place || so_far->repeated < 1 ||
                so_far->repeated > header->tensors - header->place) {
                return in->status != FLY_OK
                           ? in->status
                           : refuse(header, FLY_BAD_REPETITION, so_far->repeated, so_far->period);
            }
        }
    }
    *again = so_far->repeated != 0;
    if (*again) {
        const fly_entry *earlier = entry - so_far->period;
        so_far->repeated--;
        entry->form = earlier->form;
        entry->dtype = earlier->dtype;
        entry->storage = earlier->storage;
        entry->levels = earlier->levels;
        return FLY_OK;
    }
    if (number > so_far->kinds) {
        return refuse(header, FLY_UNKNOWN_KIND, number, so_far->kinds);
    }
    if (number == so_far->kinds) {
        fly_status status;
        header->entries[so_far->kinds++].kinds = (uint32_t)(in->at - header->data);
        kind = fly_take(in, 3);
        status = kind == NULL ? in->status : check_kind(header, kind);
        if (status != FLY_OK) {
            return status;
        }
    } else {
        kind = header->data + header->entries[number].kinds;
    }
    entry->form = kind[0];
    entry->dtype = kind[1];
    entry->storage = kind[2];
    return FLY_OK;
}

/* Read which tensor an alias repeats, and describe that. */
static fly_status read_alias(fly_header *header, fly_bytes *in, fly_tensor *tensor) {
    fly_entry *entry = &header->entries[header->place];
    const uint64_t target = varint(in);
    const uint8_t *end;
    uint64_t rank, axis;
    fly_tensor own;
    if (in->status != FLY_OK) {
        return in->status;
    }
    if (target >= header->place || header->entries[target].form == FLY_FORM_ALIAS) {
        return FLY_BAD_ALIAS;
    }
    entry->link = (uint32_t)target;
    if (header->entries[target].dtype != entry->dtype) {
        return FLY_ALIAS_DTYPE;
    }
    (void)describe(header, entry->link, tensor, &end, &rank);
    if (header->bare) {
        fly_bytes known = from(header, entry->shape);
        const fly_status status = read_shape(&known, &own, &rank);
        int same = status == FLY_OK && own.rank == tensor->rank;
        for (axis = 0; same && axis < own.rank; axis++) {
            same = own.shape[axis] == tensor->shape[axis];
        }
        return same ? FLY_OK : status != FLY_OK ? status : FLY_ALIAS_SHAPE;
    }
    return FLY_OK;
}

/* Read shape, number of levels and lengths of a tensor that is no alias. */
static fly_status read_fields(fly_header *header, fly_bytes *in, progress *so_far, int again,
                              fly_tensor *tensor) {
    fly_entry *entry = &header->entries[header->place];
    const uint8_t *end = in->at;
    uint64_t number;
    fly_status status;
    if (!header->bare) {
        number = varint(in);
        if (number > so_far->shapes) {
            return refuse(header, FLY_UNKNOWN_SHAPE, number, so_far->shapes);
        }
        if (number == so_far->shapes) {
            fly_tensor own;
            header->entries[so_far->shapes++].shapes = (uint32_t)(in->at - header->data);
            status = read_shape(in, &own, &number);
            if (status != FLY_OK) {
                return refuse(header, status, number, FLY_MAX_RANK);
            }
            number = so_far->shapes - 1;
        }
        entry->shape = header->entries[number].shapes;
    }
    if (is_shared(entry->form) && !again) {
        number = varint(in);
        if (number > MAX_LEVELS) {
            return refuse(header, FLY_MANY_LEVELS, number, MAX_LEVELS);
        }
        entry->levels = (uint16_t)number;
    }
    entry->lengths = (uint32_t)(in->at - header->data);
    status = describe(header, header->place, tensor, &end, &number);
    if (status != FLY_OK) {
        return refuse(header, status, number, FLY_MAX_RANK);
    }
    in->at = end;
    return place_in_group(header, entry, tensor);
}

/* Add the parts of a tensor to the payload, and its values to those of the file. */
static fly_status add_bytes(fly_header *header, const fly_tensor *tensor) {
    fly_entry *entry = &header->entries[header->place];
    unsigned part;
    entry->start = header->payload;
    for (part = 0; part < FLY_PARTS && entry->form != FLY_FORM_ALIAS; part++) {
        if (tensor->lengths[part] > (SIZE_MAX >> 1) - header->payload) {
            return FLY_LONG_PARTS;
        }
        header->payload += (size_t)tensor->lengths[part];
    }
    if (header->total_bytes >> 62 == 0) {
        header->total_bytes += tensor->elements * fly_item_bytes((fly_dtype)tensor->dtype);
    }
    return FLY_OK;
}

/* Pass over the name and shape of the next tensor of the architecture. */
static fly_status skip_known(fly_header *header, fly_bytes *known) {
    const uint8_t *start = header->architecture->tensors;
    fly_entry *entry = &header->entries[header->place];
    uint64_t rank;
    entry->name = (uint32_t)(known->at - start);
    if (read_name(header, known) == FLY_NAME_LENGTH) {
        return FLY_NAME_LENGTH;
    }
    entry->shape = (uint32_t)(known->at - start);
    for (rank = varint(known); rank != 0 && known->status == FLY_OK; rank--) {
        varint(known);
    }
    return known->status == FLY_OK ? FLY_OK : FLY_OTHER_ARCHITECTURE;
}

size_t fly_header_workspace(const fly_header *header, const fly_architecture *architecture) {
    const size_t known = architecture == NULL ? 0 : architecture->length / 2;
    const size_t most = header->bare ? known : header->length / 3;
    const size_t words = header->bare ? 0 : (header->length - header->tensors_at) / 2;
    if (header->tensors > most || most > SIZE_MAX / 2 / sizeof(fly_entry)) {
        return 0;
    }
    return header->tensors * sizeof(fly_entry) + words * sizeof(uint32_t) + 8;
}

/* Lay out the index in the workspace. */
static fly_status make_room(fly_header *header, uint8_t *workspace, size_t size) {
    const size_t skipped = (8 - ((uintptr_t)workspace & 7)) & 7;
    uint32_t place;
    if (size < skipped || (size - skipped) / sizeof(fly_entry) < header->tensors) {
        return FLY_SMALL_WORKSPACE;
    }
    header->entries = (fly_entry *)(void *)(workspace + skipped);
    header->words = (uint32_t *)(void *)(header->entries + header->tensors);
    header->most_words = (size - skipped - header->tensors * sizeof(fly_entry)) / sizeof(uint32_t);
    memset(header->entries, 0, header->tensors * sizeof(fly_entry));
    for (place = 0; place < header->tensors; place++) {
        header->entries[place].bucket = NONE;
    }
    return FLY_OK;
}

fly_status fly_header_index(fly_header *header, const fly_architecture *architecture,
                            void *workspace, size_t size, size_t *used) {
    fly_bytes in = fly_bytes_of(header->data, header->length), known = in;
    progress so_far = {0, 0, 0, 0};
    uint64_t name_bytes = 0;
    fly_status status;
    fly_tensor tensor;
    in.at += header->tensors_at;
    header->payload = 0;
    header->total_bytes = 0;
    forget_names(header);
    if (header->bare) {
        const uint8_t *digest = fly_take(&in, 8);
        if (digest == NULL || architecture == NULL) {
            return digest == NULL ? in.status : FLY_NO_ARCHITECTURE;
        }
        if (header->tensors > architecture->length / 2 || architecture->length >= NONE ||
            fly_load64(digest) != fly_load64(architecture->digest)) {
            return FLY_OTHER_ARCHITECTURE;
        }
        header->architecture = architecture;
        known = fly_bytes_of(architecture->tensors, architecture->length);
    }
    status = make_room(header, (uint8_t *)workspace, size);
    for (header->place = 0; status == FLY_OK && header->place < header->tensors; header->place++) {
        fly_entry *entry = &header->entries[header->place];
        int again = 0;
        if (header->bare) {
            status = skip_known(header, &known);
        } else {
            entry->name = (uint32_t)(in.at - header->data);
            status = read_name(header, &in);
        }
        name_bytes += header->name_bytes;
        if (status == FLY_OK && name_bytes / 2 > FREE_NAME_BYTES / 2 + header->file_bytes) {
            return refuse(header, FLY_LONG_NAMES, header->file_bytes, 0);
        }
        status = status == FLY_OK ? read_kind(header, &in, &so_far, &again) : status;
        if (status == FLY_OK) {
            status = entry->form == FLY_FORM_ALIAS ? read_alias(header, &in, &tensor)
                                              : read_fields(header, &in, &so_far, again, &tensor);
        }
        status = status == FLY_OK ? add_bytes(header, &tensor) : status;
        if (in.status != FLY_OK || status != FLY_OK) {
            return in.status != FLY_OK ? in.status : status;
        }
    }
    if (status == FLY_OK && fly_left(&in) != 0) {
        return refuse(header, FLY_BYTES_LEFT, fly_left(&in), 0);
    }
    if (status == FLY_OK && header->bare && fly_left(&known) != 0) {
        return FLY_OTHER_ARCHITECTURE;
    }
    if (status == FLY_OK) {
        *used = (size_t)((uint8_t *)(header->words + header->met_words) - (uint8_t *)workspace);
    }
    return status;
}

const char *fly_dtype_name(uint64_t dtype) {
    static const char names[DTYPES][14] = {
        "bool",          "uint8",       "int8",      "uint16",     "int16",   "uint32",
        "int32",         "uint64",      "int64",     "float16",    "bfloat16", "float32",
        "float64", "float8_e4m3fn", "float8_e5m2", "complex64", "complex128",
    };
    return dtype < DTYPES ? names[dtype] : "?";
}
