/* context.c: binding of context-coded streams. */
#include <string.h>

#include "../encoders.h"
#include "binding.h"

enum { MOST_RANK = 64 };

typedef struct shape {
    uint64_t extents[MOST_RANK];
    size_t rank;
    uint64_t count;
} shape;

/* Read extents, of 8 bytes each; 0 and ValueError if there are too many, or 2^48 elements. */
static int read_shape(const Py_buffer *view, shape *out) {
    size_t place;
    out->rank = (size_t)view->len / 8;
    out->count = 1;
    if (view->len % 8 != 0 || out->rank > MOST_RANK) {
        fly_refuse("a shape has at most 64 extents of 8 bytes");
        return 0;
    }
    memcpy(out->extents, view->buf, (size_t)view->len);
    for (place = 0; place < out->rank; place++) {
        if (out->extents[place] == 0) {
            out->count = 0;
            return 1;
        }
    }
    for (place = 0; place < out->rank; place++) {
        if (out->extents[place] > ((uint64_t)1 << 40) / out->count) {
            fly_refuse("a shape has more than 2**40 elements");
            return 0;
        }
        out->count *= out->extents[place];
    }
    return 1;
}

static PyObject *header(PyObject *module, PyObject *arguments) {
    Py_buffer views[2];
    shape of;
    int item;
    unsigned int negatives;
    uint8_t bytes[16];
    size_t length = 0;
    void *workspace = NULL;
    PyObject *result = NULL;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "y*iIy*", &views[0], &item, &negatives, &views[1])) {
        return NULL;
    }
    if (read_shape(&views[1], &of)) {
        if ((item != 1 && item != 2 && item != 4) || !fly_holds(&views[0], of.count, (size_t)item)) {
            fly_refuse("symbols are not of this shape and size");
        } else if ((workspace = PyMem_Malloc(
                        1 + fly_context_encode_workspace(of.extents, of.rank))) == NULL) {
            PyErr_NoMemory();
        } else {
            Py_BEGIN_ALLOW_THREADS
            length = fly_context_header(views[0].buf, (size_t)item, negatives, of.extents, of.rank,
                                        workspace, bytes);
            Py_END_ALLOW_THREADS
            result = Py_BuildValue(
                "y#n", (char *)bytes, (Py_ssize_t)length,
                (Py_ssize_t)fly_context_chunks(bytes, length, of.extents, of.rank));
        }
    }
    return fly_finish(views, 2, workspace, result);
}

static PyObject *encode(PyObject *module, PyObject *arguments) {
    Py_buffer views[3];
    shape of;
    int item;
    unsigned int negatives;
    Py_ssize_t chunk;
    void *workspace = NULL;
    PyObject *result = NULL;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "y*iIy*y*n", &views[0], &item, &negatives, &views[1], &views[2],
                          &chunk)) {
        return NULL;
    }
    if (read_shape(&views[1], &of)) {
        const uint64_t most = of.count < (uint64_t)1 << 22 ? of.count : (uint64_t)1 << 22;
        size_t room = 4096 + 3 * (size_t)most, length = SIZE_MAX;
        if ((item != 1 && item != 2 && item != 4) || chunk < 0 ||
            !fly_holds(&views[0], of.count, (size_t)item)) {
            fly_refuse("symbols are not of this shape and size");
        } else if ((workspace = PyMem_Malloc(
                        1 + fly_context_encode_workspace(of.extents, of.rank))) == NULL) {
            PyErr_NoMemory();
        } else {
            while (length == SIZE_MAX && room < (size_t)256 * (size_t)(most + 4096)) {
                uint8_t *const out = PyMem_Malloc(room);
                if (out == NULL) {
                    PyErr_NoMemory();
                    break;
                }
                Py_BEGIN_ALLOW_THREADS
                length = fly_encode_context(views[0].buf, (size_t)item, negatives, of.extents,
                                            of.rank, views[2].buf, (size_t)views[2].len,
                                            (size_t)chunk, workspace, out, room);
                Py_END_ALLOW_THREADS
                if (length != SIZE_MAX) {
                    result = PyBytes_FromStringAndSize((const char *)out, (Py_ssize_t)length);
                }
                PyMem_Free(out);
                room *= 4;
            }
            if (length == SIZE_MAX && !PyErr_Occurred()) {
                fly_refuse("no chunk of these symbols has this number");
            }
        }
    }
    return fly_finish(views, 3, workspace, result);
}

static PyObject *costs(PyObject *module, PyObject *arguments) {
    Py_buffer views[5];
    shape of;
    unsigned int most;
    Py_ssize_t chunk;
    int done = 0;
    void *workspace = NULL;
    PyObject *result = NULL;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "y*y*y*ny*Iw*", &views[0], &views[1], &views[2], &chunk,
                          &views[3], &most, &views[4])) {
        return NULL;
    }
    if (read_shape(&views[1], &of)) {
        if (chunk < 0 || most > 127 || !fly_holds(&views[0], of.count, 4) ||
            !fly_holds(&views[3], 4096, 4) ||
            !fly_holds(&views[4], of.count * (2 * (uint64_t)most + 1), 4)) {
            fly_refuse("values, bits and costs are not of this shape and size");
        } else if ((workspace = PyMem_Malloc(
                        1 + fly_context_encode_workspace(of.extents, of.rank))) == NULL) {
            PyErr_NoMemory();
        } else {
            Py_BEGIN_ALLOW_THREADS
            done = fly_context_costs(views[0].buf, of.extents, of.rank, views[2].buf,
                                      (size_t)views[2].len, (size_t)chunk, workspace, views[3].buf,
                                      most, views[4].buf);
            Py_END_ALLOW_THREADS
            if (done) {
                result = Py_NewRef(Py_None);
            } else {
                fly_refuse("no chunk of these values has this number");
            }
        }
    }
    return fly_finish(views, 5, workspace, result);
}

static PyObject *decode(PyObject *module, PyObject *arguments) {
    Py_buffer views[3];
    shape of;
    int item;
    unsigned int negatives, alphabet;
    Py_ssize_t first, chunks;
    fly_status status = FLY_OK;
    void *workspace = NULL;
    PyObject *result = NULL;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "y*y*IIw*inn", &views[0], &views[1], &negatives, &alphabet,
                          &views[2], &item, &first, &chunks)) {
        return NULL;
    }
    if (read_shape(&views[1], &of)) {
        const size_t size = fly_context_workspace(of.extents, of.rank, negatives, alphabet);
        if ((item != 1 && item != 2 && item != 4) || first < 0 || chunks < 0 ||
            !fly_holds(&views[2], of.count, (size_t)item)) {
            fly_refuse("the output is not of this shape and size");
        } else if ((workspace = PyMem_Malloc(size + 1)) == NULL) {
            PyErr_NoMemory();
        } else {
            Py_BEGIN_ALLOW_THREADS
            status = fly_decode_context(views[0].buf, (size_t)views[0].len, of.extents, of.rank,
                                        negatives, alphabet, views[2].buf, (size_t)item,
                                        (size_t)first, (size_t)chunks, workspace, size);
            Py_END_ALLOW_THREADS
            result = status == FLY_OK ? Py_NewRef(Py_None) : fly_raise(status);
        }
    }
    return fly_finish(views, 3, workspace, result);
}

static PyObject *chunk_count(PyObject *module, PyObject *arguments) {
    Py_buffer views[2];
    shape of;
    PyObject *result = NULL;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "y*y*", &views[0], &views[1])) {
        return NULL;
    }
    if (read_shape(&views[1], &of)) {
        result = PyLong_FromSize_t(
            fly_context_chunks(views[0].buf, (size_t)views[0].len, of.extents, of.rank));
    }
    return fly_finish(views, 2, NULL, result);
}

PyMethodDef fly_context_methods[] = {
    {"context_header", header, METH_VARARGS,
     "context_header(symbols, item, negatives, shape) -> the header, and the number of chunks."},
    {"context_chunks", chunk_count, METH_VARARGS,
     "context_chunks(payload, shape) -> the number of chunks, 0 if the header is unsound."},
    {"context_encode", encode, METH_VARARGS,
     "context_encode(symbols, item, negatives, shape, header, chunk) -> the bytes of a chunk."},
    {"context_costs", costs, METH_VARARGS,
     "context_costs(values, shape, header, chunk, bits, most, out) fills `out` for a chunk."},
    {"context_decode", decode, METH_VARARGS,
     "context_decode(payload, shape, negatives, alphabet, out, item, first, chunks) fills `out`."},
    {NULL, NULL, 0, NULL},
};
