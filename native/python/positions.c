/* positions.c: binding of masks. */
#include "binding.h"

static PyObject *decode(PyObject *module, PyObject *arguments) {
    Py_buffer views[3];
    size_t size;
    void *workspace;
    fly_status status;
    PyObject *result = NULL;
    int simd = -1;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "y*y*w*|i", &views[0], &views[1], &views[2], &simd)) {
        return NULL;
    }
    size = fly_positions_workspace(views[0].buf, (size_t)views[0].len, (size_t)views[2].len, 1);
    workspace = PyMem_Malloc(size + 1);
    if (workspace == NULL) {
        PyErr_NoMemory();
    } else {
        Py_BEGIN_ALLOW_THREADS
        status = fly_positions_decode(views[0].buf, (size_t)views[0].len, views[1].buf,
                                      (size_t)views[1].len, (size_t)views[2].len, views[2].buf,
                                      fly_chosen_simd(simd), workspace, size);
        Py_END_ALLOW_THREADS
        result = status == FLY_OK ? Py_NewRef(Py_None) : fly_raise(status);
    }
    return fly_finish(views, 3, workspace, result);
}

PyMethodDef fly_positions_methods[] = {
    {"positions_decode", decode, METH_VARARGS,
     "positions_decode(table, payload, mask) fills a mask of bytes, 1 where an element is kept."},
    {NULL, NULL, 0, NULL},
};
