/* rans.c: binding of rANS streams. */
#include "../encoders.h"
#include "binding.h"

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
    Py_buffer views[2]; /* table, symbols */
    int simd = -1;
    unsigned int alphabet, base;
    size_t size, item, begin = 0;
    PyObject *chunk, *result = NULL;
    uint32_t *memory; /* the model, and before it the entries */
    fly_rans rans;
    fly_status status;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "y*y*II|i", views, views + 1, &alphabet, &base, &simd)) {
        return NULL;
    }
    item = alphabet <= 256 ? 1 : 2;
    size = (size_t)views[1].len / item;
    if (alphabet < 1 || alphabet > 65536 || !fly_holds(views + 1, size, item)) {
        return fly_finish(views, 2, NULL, fly_refuse("the buffers do not match"));
    }
    memory = PyMem_Malloc(fly_rans_chunk_workspace(alphabet) + 4 * ((size_t)alphabet + 1));
    chunk = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)fly_rans_chunk_bound(size));
    if (memory == NULL || chunk == NULL) {
        Py_XDECREF(chunk);
        return fly_finish(views, 2, memory, PyErr_NoMemory());
    }
    Py_BEGIN_ALLOW_THREADS
    status = fly_rans_read_table(&rans, views[0].buf, (size_t)views[0].len, alphabet,
                                 memory + fly_rans_chunk_workspace(alphabet) / 4,
                                 (size_t)alphabet + 1);
    if (status == FLY_OK) {
        status = fly_rans_encode_chunk(&rans, views[1].buf, base, size,
                                       (uint8_t *)PyBytes_AsString(chunk), &begin, memory,
                                       fly_chosen_simd(simd));
    }
    Py_END_ALLOW_THREADS
    result = status == FLY_OK ? Py_BuildValue("On", chunk, (Py_ssize_t)begin) : fly_raise(status);
    Py_DECREF(chunk);
    return fly_finish(views, 2, memory, result);
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
    {"rans_table", table, METH_VARARGS, "rans_table(counts) -> (table, used symbols)"},
    {"rans_encode", encode, METH_VARARGS,
     "rans_encode(table, symbols, alphabet, base, simd=-1) -> (bytes, where the chunk begins)"},
    {"rans_decode", decode, METH_VARARGS,
     "rans_decode(table, payload, count, alphabet, out, first, last, simd=-1, fast=True)"},
    {NULL, NULL, 0, NULL},
};
