/* repetition.c: binding of fly_repetition. */
#include "binding.h"
#include "../encoders.h"

static PyObject *repetition(PyObject *module, PyObject *args) {
    Py_buffer data;
    Py_ssize_t step;
    uint32_t *table;
    uint64_t selected, repeated;
    (void)module;
    if (!PyArg_ParseTuple(args, "y*n", &data, &step)) {
        return NULL;
    }
    table = PyMem_Malloc(fly_repetition_workspace());
    if (table == NULL || step < 1) {
        PyMem_Free(table);
        PyBuffer_Release(&data);
        return table == NULL ? PyErr_NoMemory() : fly_raise(FLY_BAD_ARGUMENT);
    }
    Py_BEGIN_ALLOW_THREADS
    fly_repetition(data.buf, (size_t)data.len, (size_t)step, table, &selected, &repeated);
    Py_END_ALLOW_THREADS
    PyMem_Free(table);
    PyBuffer_Release(&data);
    return Py_BuildValue("KK", (unsigned long long)selected, (unsigned long long)repeated);
}

PyMethodDef fly_repetition_methods[] = {
    {"repetition", repetition, METH_VARARGS,
     "repetition(data, step) -> pieces selected by their content, and how many occurred before."},
    {NULL, NULL, 0, NULL},
};
