/* rans.c: binding of rANS streams. */
#include "../encoders.h"
#include "binding.h"

static PyObject *count(PyObject *module, PyObject *arguments) {
    Py_buffer symbols;
    int item;
    unsigned int alphabet;
    fly_status status = FLY_BAD_ARGUMENT;
    PyObject *counts = NULL;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "y*iI", &symbols, &item, &alphabet)) {
        return NULL;
    }
    if ((item == 1 || item == 2) && alphabet <= 65536 && symbols.len % item == 0) {
        uint64_t *const at = PyMem_Calloc(alphabet + 1, sizeof(uint64_t));
        if (at != NULL) {
            Py_BEGIN_ALLOW_THREADS
            status = fly_rans_count(symbols.buf, item, (size_t)(symbols.len / item), alphabet, at);
            Py_END_ALLOW_THREADS
            if (status == FLY_OK) {
                counts = PyBytes_FromStringAndSize((const char *)at, 8 * (Py_ssize_t)alphabet);
            }
            PyMem_Free(at);
        } else {
            status = FLY_OK;
            PyErr_NoMemory();
        }
    }
    PyBuffer_Release(&symbols);
    if (status != FLY_OK) {
        PyErr_Format(PyExc_ValueError, "symbols must lie in 0..%d", (int)alphabet - 1);
    }
    return counts;
}

static PyObject *table(PyObject *module, PyObject *arguments) {
    Py_buffer counts;
    PyObject *result = NULL;
    uint32_t alphabet, used = 0;
    void *workspace;
    uint8_t *bytes;
    size_t length = 0;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "y*", &counts)) {
        return NULL;
    }
    if (counts.len % 8 != 0 || counts.len > 8 * 65536) {
        PyBuffer_Release(&counts);
        PyErr_SetString(PyExc_ValueError, "counts are of at most 65536 symbols, 8 bytes each");
        return NULL;
    }
    alphabet = (uint32_t)(counts.len / 8);
    workspace = PyMem_Malloc(fly_rans_table_workspace(alphabet));
    bytes = PyMem_Malloc(fly_rans_table_bound(alphabet));
    if (workspace != NULL && bytes != NULL) {
        Py_BEGIN_ALLOW_THREADS
        length = fly_rans_table(counts.buf, alphabet, bytes, &used, workspace);
        Py_END_ALLOW_THREADS
        result = Py_BuildValue("y#I", (char *)bytes, (Py_ssize_t)length, (unsigned int)used);
    } else {
        PyErr_NoMemory();
    }
    PyMem_Free(workspace);
    PyMem_Free(bytes);
    PyBuffer_Release(&counts);
    return result;
}

static PyObject *encode(PyObject *module, PyObject *arguments) {
    Py_buffer table_bytes, symbols;
    int item, simd = -1;
    unsigned int alphabet;
    fly_status status = FLY_BAD_ARGUMENT;
    PyObject *result = NULL;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "y*y*iI|i", &table_bytes, &symbols, &item, &alphabet, &simd)) {
        return NULL;
    }
    if ((item == 1 || item == 2) && alphabet >= 1 && alphabet <= 65536 && symbols.len % item == 0) {
        const size_t size = (size_t)(symbols.len / item), words = (size_t)alphabet + 1;
        uint32_t *const model = PyMem_Malloc(4 * words);
        void *const entries = PyMem_Malloc(fly_rans_chunk_workspace(alphabet, item));
        uint8_t *const out = PyMem_Malloc(fly_rans_chunk_bound(size));
        size_t begin = 0;
        fly_rans rans;
        status = FLY_OK;
        if (model != NULL && entries != NULL && out != NULL) {
            Py_BEGIN_ALLOW_THREADS
            status = fly_rans_read_table(&rans, table_bytes.buf, (size_t)table_bytes.len, alphabet,
                                         model, words);
            if (status == FLY_OK) {
                status = fly_rans_encode_chunk(&rans, symbols.buf, item, size, out, &begin, entries,
                                               fly_chosen_simd(simd));
            }
            Py_END_ALLOW_THREADS
            if (status == FLY_OK) {
                result = PyBytes_FromStringAndSize(
                    (const char *)out + begin, (Py_ssize_t)(fly_rans_chunk_bound(size) - begin));
            }
        } else {
            PyErr_NoMemory();
        }
        PyMem_Free(model);
        PyMem_Free(entries);
        PyMem_Free(out);
    }
    PyBuffer_Release(&table_bytes);
    PyBuffer_Release(&symbols);
    return status == FLY_OK ? result : fly_raise(status);
}

static PyObject *decode(PyObject *module, PyObject *arguments) {
    Py_buffer table_bytes, payload, out;
    unsigned int alphabet;
    unsigned long long size, first, last;
    int simd = -1, fast = 1, failed = 0;
    fly_status status;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "y*y*KIw*KK|ip", &table_bytes, &payload, &size, &alphabet,
                          &out, &first, &last, &simd, &fast)) {
        return NULL;
    }
    status = FLY_BAD_ARGUMENT;
    if (alphabet <= 65536) {
        const size_t words =
            fly_rans_workspace(table_bytes.buf, (size_t)table_bytes.len, alphabet, fast);
        uint32_t *const workspace = PyMem_Malloc(4 * words);
        fly_rans rans;
        failed = workspace == NULL;
        if (!failed) {
            Py_BEGIN_ALLOW_THREADS
            status = fly_rans_open(&rans, table_bytes.buf, (size_t)table_bytes.len, payload.buf,
                                   (size_t)payload.len, size, alphabet, workspace, words);
            if (status == FLY_OK) {
                status = fly_rans_decode(&rans, first, last, out.buf,
                                         (size_t)out.len >> (alphabet > 256),
                                         fly_chosen_simd(simd));
            }
            Py_END_ALLOW_THREADS
        }
        PyMem_Free(workspace);
    }
    PyBuffer_Release(&table_bytes);
    PyBuffer_Release(&payload);
    PyBuffer_Release(&out);
    if (failed) {
        return PyErr_NoMemory();
    }
    if (status != FLY_OK) {
        return fly_raise(status);
    }
    Py_RETURN_NONE;
}

PyMethodDef fly_rans_methods[] = {
    {"rans_count", count, METH_VARARGS, "rans_count(symbols, item, alphabet) -> uint64 counts"},
    {"rans_table", table, METH_VARARGS, "rans_table(counts) -> (table, used symbols)"},
    {"rans_encode", encode, METH_VARARGS,
     "rans_encode(table, symbols, item, alphabet, simd=-1) -> one chunk"},
    {"rans_decode", decode, METH_VARARGS,
     "rans_decode(table, payload, count, alphabet, out, first, last, simd=-1, fast=True)"},
    {NULL, NULL, 0, NULL},
};
