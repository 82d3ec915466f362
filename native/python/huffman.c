/* huffman.c: binding of the Huffman coder.
 *
 * Symbols are one byte each up to an alphabet of 256, two otherwise. Some functions work on chunks
 * `first` to `last` - 1 of all symbols, so that threads can share the work.
 */
#include "../encoders.h"
#include "binding.h"

#include <string.h>

PyObject *fly_finish(Py_buffer *views, int number, void *memory, PyObject *result) {
    while (number-- > 0) {
        PyBuffer_Release(views + number);
    }
    PyMem_Free(memory);
    return result;
}

PyObject *fly_refuse(const char *sentence) {
    PyErr_SetString(PyExc_ValueError, sentence);
    return NULL;
}

int fly_holds(const Py_buffer *view, uint64_t count, size_t item) {
    return (uint64_t)view->len / item == count && (size_t)view->len % item == 0 &&
           (uintptr_t)view->buf % item == 0;
}

static int is_alphabet(uint64_t alphabet) {
    return alphabet >= 1 && alphabet <= FLY_HUFFMAN_ALPHABET;
}

/* Streams of some symbols. */
typedef struct part {
    const uint8_t *symbols;
    uint64_t count, first, last; /* symbols in all; streams of this part */
    size_t item;
} part;

/* The streams of chunks first to last - 1; 0 if there are no such chunks. */
static int find_part(part *p, const Py_buffer *symbols, uint64_t alphabet, uint64_t first,
                     uint64_t last) {
    p->symbols = symbols->buf;
    p->item = alphabet <= 256 ? 1 : 2;
    p->count = (uint64_t)symbols->len / p->item;
    p->first = 4 * first;
    p->last = fly_huffman_streams(p->count);
    if (!is_alphabet(alphabet) || !fly_holds(symbols, p->count, p->item) || first > last ||
        last > p->count / FLY_HUFFMAN_CHUNK + 1 || p->first > p->last) {
        return 0;
    }
    p->last = 4 * last < p->last ? 4 * last : p->last;
    return 1;
}

static const uint8_t *find_stream(const part *p, uint64_t stream, size_t *number) {
    const size_t begin = (size_t)fly_huffman_begin(p->count, stream);
    *number = (size_t)fly_huffman_begin(p->count, stream + 1) - begin;
    return p->symbols + begin * p->item;
}

static PyObject *count(PyObject *module, PyObject *args) {
    Py_buffer views[2]; /* symbols, counts */
    unsigned alphabet, base;
    unsigned long long first, last;
    fly_status status = FLY_OK;
    uint64_t stream;
    part p;
    (void)module;
    if (!PyArg_ParseTuple(args, "y*IIKKw*", views, &alphabet, &base, &first, &last, views + 1)) {
        return NULL;
    }
    if (!find_part(&p, views, alphabet, first, last) ||
        !fly_holds(views + 1, fly_huffman_streams(p.count) * alphabet, 4)) {
        return fly_finish(views, 2, NULL, fly_refuse("the buffers do not match"));
    }
    Py_BEGIN_ALLOW_THREADS
    for (stream = p.first; stream < p.last && status == FLY_OK; stream++) {
        size_t number;
        const uint8_t *symbols = find_stream(&p, stream, &number);
        status = fly_count_symbols(symbols, (uint32_t)number, alphabet, base,
                                   (uint32_t *)views[1].buf + stream * alphabet);
    }
    Py_END_ALLOW_THREADS
    return fly_finish(views, 2, NULL, PyBool_FromLong(status == FLY_OK));
}

static PyObject *code(PyObject *module, PyObject *args) {
    Py_buffer counts;
    unsigned limit, used = 0;
    int stretch;
    PyObject *lengths = NULL;
    uint64_t sum = 0;
    void *workspace;
    size_t symbol, alphabet;
    (void)module;
    if (!PyArg_ParseTuple(args, "y*Ip", &counts, &limit, &stretch)) {
        return NULL;
    }
    alphabet = (size_t)counts.len / 8;
    if (!fly_holds(&counts, alphabet, 8) || alphabet > FLY_HUFFMAN_ALPHABET || limit > 32) {
        return fly_finish(&counts, 1, NULL, fly_refuse("the buffer does not match"));
    }
    for (symbol = 0; symbol < alphabet; symbol++) {
        const uint64_t number = ((const uint64_t *)counts.buf)[symbol];
        used += number > 0;
        sum = (sum | number) >> 56 ? (uint64_t)1 << 56 : sum + number;
    }
    if (sum >> 56) {
        return fly_finish(&counts, 1, NULL, fly_refuse("counts must be below 2**56 together"));
    }
    limit = stretch ? fly_huffman_limit(used, limit) : limit;
    workspace = PyMem_Malloc(fly_huffman_code_workspace(used, limit));
    if (workspace == NULL) {
        PyErr_NoMemory();
    } else if ((lengths = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)alphabet)) != NULL) {
        fly_huffman_code(counts.buf, (uint32_t)alphabet, limit,
                         (uint8_t *)PyBytes_AsString(lengths), workspace);
    }
    return fly_finish(&counts, 1, workspace, lengths);
}

static PyObject *pack(PyObject *module, PyObject *args) {
    Py_buffer lengths;
    PyObject *table = NULL;
    uint8_t *memory;
    Py_ssize_t at;
    int longest = 32;
    (void)module;
    if (!PyArg_ParseTuple(args, "y*", &lengths)) {
        return NULL;
    }
    for (at = 0; at < lengths.len; at++) {
        longest = ((const uint8_t *)lengths.buf)[at] > 32 ? 0 : longest;
    }
    if (!is_alphabet((uint64_t)lengths.len) || !longest) {
        return fly_finish(&lengths, 1, NULL, fly_refuse("the buffer does not match"));
    }
    memory = PyMem_Malloc(2 * (size_t)lengths.len + 8);
    if (memory == NULL) {
        PyErr_NoMemory();
    } else {
        const size_t size = fly_huffman_pack(lengths.buf, (uint32_t)lengths.len, memory);
        table = PyBytes_FromStringAndSize((char *)memory, (Py_ssize_t)size);
    }
    return fly_finish(&lengths, 1, memory, table);
}

static PyObject *unpack(PyObject *module, PyObject *args) {
    Py_buffer table;
    unsigned alphabet;
    PyObject *lengths;
    (void)module;
    if (!PyArg_ParseTuple(args, "y*I", &table, &alphabet)) {
        return NULL;
    }
    lengths = PyBytes_FromStringAndSize(NULL, is_alphabet(alphabet) ? (Py_ssize_t)alphabet : 1);
    if (lengths != NULL) {
        const fly_status status = fly_huffman_lengths(table.buf, (size_t)table.len, alphabet,
                                                      (uint8_t *)PyBytes_AsString(lengths));
        if (status != FLY_OK) {
            Py_DECREF(lengths);
            lengths = fly_raise(status);
        }
    }
    return fly_finish(&table, 1, NULL, lengths);
}

static PyObject *sizes(PyObject *module, PyObject *args) {
    Py_buffer views[3]; /* counts, lengths, sizes */
    uint64_t streams, total;
    (void)module;
    if (!PyArg_ParseTuple(args, "y*y*w*", views, views + 1, views + 2)) {
        return NULL;
    }
    streams = (uint64_t)views[2].len / 8;
    if (!fly_holds(views + 2, streams, 8) ||
        !fly_holds(views, streams * (uint64_t)views[1].len, 4)) {
        return fly_finish(views, 3, NULL, fly_refuse("the buffers do not match"));
    }
    total = fly_huffman_sizes(views[0].buf, streams, views[1].buf, (uint32_t)views[1].len,
                              views[2].buf);
    return fly_finish(views, 3, NULL, PyLong_FromUnsignedLongLong(total));
}

static PyObject *new_bytes(PyObject *module, PyObject *args) {
    const char *head;
    Py_ssize_t length, size;
    PyObject *bytes;
    (void)module;
    if (!PyArg_ParseTuple(args, "y#n", &head, &length, &size)) {
        return NULL;
    }
    bytes = PyBytes_FromStringAndSize(NULL, length + size);
    if (bytes != NULL) {
        memcpy(PyBytes_AsString(bytes), head, (size_t)length);
    }
    return bytes;
}

static PyObject *encode(PyObject *module, PyObject *args) {
    Py_buffer views[3]; /* symbols, lengths, sizes */
    PyObject *payload;
    unsigned base;
    unsigned long long first, last;
    int simd = -1;
    part p;
    void *coder;
    fly_status status;
    uint64_t stream, streams, total = 0, size;
    uint8_t *out;
    (void)module;
    if (!PyArg_ParseTuple(args, "y*y*y*IKKS|i", views, views + 1, views + 2, &base, &first, &last,
                          &payload, &simd)) {
        return NULL;
    }
    size = (uint64_t)PyBytes_Size(payload);
    streams = (uint64_t)views[2].len / 8;
    for (stream = 0; stream < streams && fly_holds(views + 2, streams, 8); stream++) {
        const uint64_t one = ((const uint64_t *)views[2].buf)[stream];
        total = one > size || total > size ? size + 1 : total + one;
    }
    total = total > size ? total : total + fly_huffman_head(views[2].buf, streams, NULL);
    if (!find_part(&p, views, (uint64_t)views[1].len, first, last) || total > size ||
        !fly_holds(views + 2, fly_huffman_streams(p.count), 8)) {
        return fly_finish(views, 3, NULL, fly_refuse("the buffers do not match"));
    }
    out = (uint8_t *)PyBytes_AsString(payload) + (size - total);
    coder = PyMem_Malloc(fly_huffman_coder_workspace((uint32_t)views[1].len));
    if (coder == NULL) {
        return fly_finish(views, 3, NULL, PyErr_NoMemory());
    }
    /* `payload` comes from `new_bytes`, and nobody reads it before all chunks are written. */
    Py_BEGIN_ALLOW_THREADS
    status = fly_huffman_coder(views[1].buf, (uint32_t)views[1].len, base, p.count,
                               fly_chosen_simd(simd), coder);
    out += fly_huffman_head(views[2].buf, streams, first == 0 ? out : NULL);
    for (stream = 0; stream < p.last && status == FLY_OK; stream++) {
        const size_t length = (size_t)((const uint64_t *)views[2].buf)[stream];
        size_t number;
        const uint8_t *symbols = find_stream(&p, stream, &number);
        if (stream >= p.first) {
            status = fly_huffman_write(coder, symbols, number, out, length);
        }
        out += length;
    }
    Py_END_ALLOW_THREADS
    return fly_finish(views, 3, coder, status == FLY_OK ? Py_BuildValue("")
                                                        : fly_refuse("the symbols have changed"));
}

static PyObject *decode(PyObject *module, PyObject *args) {
    Py_buffer views[3]; /* table, payload, symbols */
    unsigned alphabet;
    unsigned long long first, last;
    Py_ssize_t more = -1;
    int simd = -1;
    size_t size, item;
    uint64_t number;
    void *workspace;
    fly_status status;
    (void)module;
    if (!PyArg_ParseTuple(args, "y*y*IKKw*|in", views, views + 1, &alphabet, &first, &last,
                          views + 2, &simd, &more)) {
        return NULL;
    }
    item = alphabet <= 256 ? 1 : 2;
    number = (uint64_t)views[2].len / item;
    if (!is_alphabet(alphabet) || !fly_holds(views + 2, number, item)) {
        return fly_finish(views, 3, NULL, fly_refuse("the buffers do not match"));
    }
    size = fly_huffman_workspace(alphabet, more < 0 ? number : 0) + (more < 0 ? 0 : (size_t)more);
    workspace = PyMem_Malloc(size);
    if (workspace == NULL) {
        return fly_finish(views, 3, NULL, PyErr_NoMemory());
    }
    Py_BEGIN_ALLOW_THREADS
    status = fly_huffman_open(views[0].buf, (size_t)views[0].len, alphabet, number,
                              fly_chosen_simd(simd), workspace, size);
    if (status == FLY_OK) {
        status = fly_huffman_decode(workspace, views[1].buf, (size_t)views[1].len, number, first,
                                    last, item, views[2].buf);
    }
    Py_END_ALLOW_THREADS
    return fly_finish(views, 3, workspace,
                      status == FLY_OK ? Py_BuildValue("") : fly_raise(status));
}

PyMethodDef fly_huffman_methods[] = {
    {"count_symbols", count, METH_VARARGS,
     "count_symbols(symbols, alphabet, base, first, last, counts) -> whether all lie in it.\n\n"
     "Adds to counts (uint32, of each stream and symbol)."},
    {"huffman_code", code, METH_VARARGS,
     "huffman_code(counts, limit, stretch) -> codeword lengths.\n\n"
     "counts are uint64; stretch allows two bits more than the least, up to 16."},
    {"huffman_pack", pack, METH_VARARGS, "huffman_pack(lengths) -> table."},
    {"huffman_unpack", unpack, METH_VARARGS, "huffman_unpack(table, alphabet) -> lengths."},
    {"huffman_sizes", sizes, METH_VARARGS,
     "huffman_sizes(counts, lengths, sizes) -> bytes of the payload; fills sizes (uint64)."},
    {"new_bytes", new_bytes, METH_VARARGS,
     "new_bytes(head, size) -> the head, and so many bytes still to be written."},
    {"huffman_encode", encode, METH_VARARGS,
     "huffman_encode(symbols, lengths, sizes, base, first, last, payload[, simd]).\n\n"
     "Writes chunks into the end of the payload."},
    {"huffman_decode", decode, METH_VARARGS,
     "huffman_decode(table, payload, alphabet, first, last, symbols[, simd[, memory]]).\n\n"
     "Fills chunks; memory is of the workspace, in bytes beyond the least."},
    {NULL, NULL, 0, NULL},
};
