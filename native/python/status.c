/* status.c: the sentence of each status, raised as flyweight.errors.FormatError. */
#include "binding.h"

const char *fly_sentence(fly_status status) {
    switch (status) {
    case FLY_CUT_SHORT: return "the bytes are cut short.";
    case FLY_BYTES_LEFT: return "bytes follow the end.";
    case FLY_BAD_VARINT: return "an integer has more than 63 bits or is padded with zeros.";
    case FLY_BAD_ARGUMENT: return "an alphabet, a count or a shape is out of range.";
    case FLY_SMALL_WORKSPACE: return "the workspace is too small.";
    case FLY_TOO_MANY: return "so few bytes cannot stand for so many elements.";
    case FLY_RANS_NOT_EMPTY: return "an rANS stream of no symbols is not empty.";
    case FLY_RANS_NO_SYMBOL:
        return "an rANS stream without a payload does not name the symbol to repeat.";
    case FLY_RANS_TABLE_SHORT:
        return "an rANS table is cut short or holds a number that is too large.";
    case FLY_RANS_TABLE_LONG: return "an rANS table has at most 524288 bytes.";
    case FLY_RANS_TABLE_END: return "an rANS table does not end where its last weight does.";
    case FLY_RANS_ONE_LANE: return "an rANS table has one lane in the form for several.";
    case FLY_RANS_USED: return "an rANS table cannot hold so few or so many symbols in its bits.";
    case FLY_RANS_BEYOND: return "an rANS table names symbols beyond its alphabet.";
    case FLY_RANS_WEIGHT: return "an rANS table gives a symbol a weight out of range.";
    case FLY_RANS_NO_WEIGHT: return "an rANS table gives every symbol a weight of zero.";
    case FLY_RANS_LONE_LANE: return "an rANS stream of several chunks has only one lane.";
    case FLY_RANS_PADDED: return "the state of an rANS stream is missing or padded with zeros.";
    case FLY_RANS_STATES: return "an rANS chunk cannot hold its states and whole words.";
    case FLY_RANS_LOW_STATE: return "an rANS state is below 65536.";
    case FLY_RANS_END: return "rANS symbols do not end where their bytes do.";
    case FLY_HUFFMAN_LONG_TABLE: return "a Huffman table is too long for so few symbols.";
    case FLY_HUFFMAN_NO_TABLE: return "a Huffman table is given for an alphabet of one symbol.";
    case FLY_HUFFMAN_TABLE_CUT:
        return "a Huffman table is cut short or holds two runs in a row.";
    case FLY_HUFFMAN_NUMBER: return "a Huffman table is cut short inside a number.";
    case FLY_HUFFMAN_INCOMPLETE:
        return "a Huffman table leaves its code incomplete (Kraft sum below 1).";
    case FLY_HUFFMAN_OVERFULL:
        return "a Huffman table holds too many codewords (Kraft sum above 1).";
    case FLY_HUFFMAN_LENGTH: return "a Huffman table gives a symbol a length that is not 1 to 16.";
    case FLY_HUFFMAN_TABLE_END:
        return "a Huffman table does not end where its code is complete.";
    case FLY_HUFFMAN_NOT_EMPTY: return "a Huffman stream of no symbols is not empty.";
    case FLY_HUFFMAN_REPEATED: return "a Huffman stream of one repeated symbol has a payload.";
    case FLY_HUFFMAN_COUNT: return "so many Huffman symbols cannot fit in so few bytes.";
    case FLY_HUFFMAN_STREAMS:
        return "the streams of a Huffman payload are longer than the payload.";
    case FLY_HUFFMAN_END: return "a Huffman stream does not end where its symbols do.";
    case FLY_HUFFMAN_PADDING:
        return "a Huffman stream is padded with bits that are not zero.";
    case FLY_CONTEXT_HEADER: return "a context-coded stream has a header out of range.";
    case FLY_CONTEXT_KERNEL:
        return "a context-coded stream takes a tensor without kernels for kernels.";
    case FLY_CONTEXT_VALUE: return "a context-coded stream leaves its alphabet.";
    case FLY_CONTEXT_END: return "a context-coded stream does not end where its values do.";
    case FLY_PLANES_FORMS:
        return "the forms of byte planes are padded with bits that are not zero.";
    case FLY_PLANES_UNKNOWN: return "booleans are stored in a form that is unknown.";
    case FLY_PLANES_BOOL: return "a value of dtype bool is neither 0 nor 1.";
    case FLY_PLANES_PADDING:
        return "booleans in bits are padded with bits that are not zero.";
    case FLY_PLANES_REPEATED: return "a byte plane of one repeated byte is Huffman-coded.";
    case FLY_PLANES_NO_TABLE:
        return "a byte plane uses the table before it, but it is the first.";
    case FLY_PLANES_LEFT: return "bytes follow after the byte planes.";
    case FLY_POSITIONS_FORM: return "positions are stored in a form that is unknown.";
    case FLY_POSITIONS_BITMAP:
        return "positions have a payload of another length than their mask.";
    case FLY_POSITIONS_PADDING:
        return "a bitmap of positions is padded with bits that are not zero.";
    case FLY_POSITIONS_COUNT: return "there are more gaps than positions, or none.";
    case FLY_POSITIONS_END: return "the gaps between positions do not end within the mask.";
    /* Sentences about a header are formatted: {0} is the name of the tensor, {1} and {2} are two
     * numbers, {3} and {4} the dtypes of these numbers, {5} its place. */
    case FLY_BAD_HEADER_LENGTH: return "so few bytes cannot be so long a header.";
    case FLY_METADATA_COUNT:
        return "the header states {1} strings of metadata; so few bytes have at most {2}.";
    case FLY_TENSOR_COUNT:
        return "the header states {1} tensors; so few bytes have at most {2}.";
    case FLY_METADATA_ORDER: return "a key of the metadata is repeated or out of order.";
    case FLY_SHARED_NAME: return "a tensor's name repeats more than the name before it has.";
    case FLY_NAME_LENGTH: return "a tensor's name is missing or longer than {1} bytes.";
    case FLY_UNKNOWN_WORD: return "the header refers to word {1} where {2} are known.";
    case FLY_DOT_IN_WORD: return "a component of a name holds a dot.";
    case FLY_UNKNOWN_KIND: return "the header refers to kind {1} where {2} are known.";
    case FLY_UNKNOWN_SHAPE: return "the header refers to shape {1} where {2} are known.";
    case FLY_BAD_REPETITION:
        return "the header repeats {1} tensors from {2} before number {5}.";
    case FLY_UNKNOWN_FORM: return "the header names the encoding {1}, which is unknown.";
    case FLY_UNKNOWN_DTYPE: return "the header names the dtype {1}, which is unknown.";
    case FLY_BAD_STORAGE: return "{3} cannot be stored as {4}.";
    case FLY_SCALED_DTYPE: return "a tensor of {3} cannot have scales.";
    case FLY_NO_CHANNELS: return "tensor {0!r} has scales and no channels.";
    case FLY_BAD_RANK: return "a tensor has {1} dimensions; at most {2} are allowed.";
    case FLY_BAD_SHAPE: return "tensor {0!r} has a shape of more than 2**40 elements.";
    case FLY_MANY_LEVELS: return "tensor {0!r} has {1} levels; at most {2} are allowed.";
    case FLY_BAD_ALIAS: return "tensor {0!r} is an alias of no earlier tensor.";
    case FLY_ALIAS_DTYPE: return "tensor {0!r} differs in dtype from what it aliases.";
    case FLY_ALIAS_SHAPE: return "tensor {0!r} differs in shape from what it aliases.";
    case FLY_NO_GROUP: return "tensor {0!r} belongs to no group.";
    case FLY_LARGE_GROUP: return "tensor {0!r} makes its group too large.";
    case FLY_LONG_NAMES: return "the names of the tensors are too long for {1} bytes.";
    case FLY_LONG_PARTS: return "tensor {0!r} has parts that are longer than any file.";
    case FLY_NO_ARCHITECTURE:
        return "the file leaves names and shapes to its architecture; give that.";
    case FLY_OTHER_ARCHITECTURE:
        return "the names and shapes of the file are those of another architecture.";
    case FLY_BAD_TEXT: return "the header holds text that is not UTF-8.";
    default: return "the bytes are damaged.";
    }
}

PyObject *fly_raise(fly_status status) {
    PyObject *errors = PyImport_ImportModule("flyweight.errors");
    PyObject *kind = errors == NULL ? NULL : PyObject_GetAttrString(errors, "FormatError");
    if (kind != NULL) {
        PyErr_SetString(kind, fly_sentence(status));
    }
    Py_XDECREF(kind);
    Py_XDECREF(errors);
    return NULL;
}
