/* status.c: the sentence of each status, raised as flyweight.errors.FormatError. */
#include "binding.h"

static const char *sentence_of(fly_status status) {
    switch (status) {
    case FLY_CUT_SHORT: return "the bytes are cut short.";
    case FLY_BYTES_LEFT: return "bytes follow the end.";
    case FLY_BAD_VARINT: return "an integer has more than 63 bits or is padded with zeros.";
    case FLY_BAD_ARGUMENT: return "an alphabet, a count or a shape is out of range.";
    case FLY_SMALL_WORKSPACE: return "the workspace is too small.";
    case FLY_TOO_MANY: return "so few bytes cannot stand for so many elements.";
    default: return "the bytes are damaged.";
    }
}

PyObject *fly_raise(fly_status status) {
    PyObject *errors = PyImport_ImportModule("flyweight.errors");
    PyObject *kind = errors == NULL ? NULL : PyObject_GetAttrString(errors, "FormatError");
    if (kind != NULL) {
        PyErr_SetString(kind, sentence_of(status));
    }
    Py_XDECREF(kind);
    Py_XDECREF(errors);
    return NULL;
}
