/* header.c: the binding of native/header.c. A refused header raises FormatError with details. */
#include <string.h>

#include "binding.h"

/* Raise FormatError with the sentence of a status, filled with what the header holds there. */
static PyObject *raise_refused(fly_header *header, fly_status status) {
    const char *sentence = status == FLY_CUT_SHORT    ? "the header is cut short."
                           : status == FLY_BYTES_LEFT ? "the header has {1} bytes too many."
                                                      : fly_sentence(status);
    PyObject *errors = PyImport_ImportModule("flyweight.errors");
    PyObject *kind = errors == NULL ? NULL : PyObject_GetAttrString(errors, "FormatError");
    PyObject *text = kind == NULL ? NULL : PyUnicode_FromString(sentence);
    const unsigned long long first = header->wrong[0], second = header->wrong[1];
    if (text != NULL) {
        PyObject *name = PyUnicode_DecodeUTF8(header->name, header->name_bytes, "replace");
        PyObject *filled = NULL;
        if (name != NULL) {
            filled = PyObject_CallMethod(text, "format", "OKKssI", name, first, second,
                                         fly_dtype_name(first), fly_dtype_name(second),
                                         (unsigned)header->place);
        }
        if (filled != NULL) {
            PyErr_SetObject(kind, filled);
        }
        Py_XDECREF(filled);
        Py_XDECREF(name);
    }
    Py_XDECREF(text);
    Py_XDECREF(kind);
    Py_XDECREF(errors);
    return NULL;
}

/* A str, or NULL and FormatError. */
static PyObject *text_of(fly_header *header, const char *bytes, size_t length) {
    PyObject *text = PyUnicode_DecodeUTF8(bytes, (Py_ssize_t)length, "strict");
    if (text == NULL && PyErr_ExceptionMatches(PyExc_UnicodeDecodeError)) {
        PyErr_Clear();
        raise_refused(header, FLY_BAD_TEXT);
    }
    return text;
}

/* header_metadata(raw, bare, file_bytes) -> dict */
static PyObject *header_metadata(PyObject *module, PyObject *arguments) {
    Py_buffer raw;
    int bare;
    Py_ssize_t file_bytes;
    fly_header header;
    fly_text key, value;
    size_t at = 0;
    fly_status status;
    PyObject *metadata = NULL;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "y*pn", &raw, &bare, &file_bytes)) {
        return NULL;
    }
    status = fly_header_open(&header, raw.buf, (size_t)raw.len, bare, (size_t)file_bytes);
    if (status != FLY_OK) {
        raise_refused(&header, status);
    } else {
        metadata = PyDict_New();
    }
    while (metadata != NULL && fly_header_metadata(&header, &at, &key, &value) == FLY_OK) {
        PyObject *name = text_of(&header, key.bytes, key.length);
        PyObject *text = name == NULL ? NULL : text_of(&header, value.bytes, value.length);
        if (text == NULL || PyDict_SetItem(metadata, name, text) < 0) {
            Py_CLEAR(metadata);
        }
        Py_XDECREF(name);
        Py_XDECREF(text);
    }
    PyBuffer_Release(&raw);
    return metadata;
}

/* (name, shape, form, flags, dtype, storage, levels, target or first, lengths), lengths with None
 * for parts that the tensor does not have. */
static PyObject *outline(fly_header *header, uint32_t place) {
    fly_tensor tensor;
    const fly_status status = fly_header_tensor(header, place, &tensor);
    const char *bytes = fly_header_name(header, place);
    PyObject *name = status == FLY_OK ? text_of(header, bytes, header->name_bytes)
                                      : raise_refused(header, status);
    PyObject *shape = PyTuple_New(status == FLY_OK ? tensor.rank : 0);
    PyObject *lengths = PyTuple_New(FLY_PARTS);
    const int alias = header->entries[place].form == FLY_FORM_ALIAS;
    unsigned index;
    int failed = name == NULL || shape == NULL || lengths == NULL;
    for (index = 0; !failed && index < tensor.rank; index++) {
        PyObject *extent = PyLong_FromUnsignedLongLong(tensor.shape[index]);
        failed = PyTuple_SetItem(shape, index, extent) < 0;
    }
    for (index = 0; !failed && index < FLY_PARTS; index++) {
        PyObject *length = (tensor.parts >> index & 1) && !alias
                               ? PyLong_FromUnsignedLongLong(tensor.lengths[index])
                               : Py_BuildValue("");
        failed = PyTuple_SetItem(lengths, index, length) < 0;
    }
    if (failed || PyErr_Occurred()) {
        Py_XDECREF(name);
        Py_XDECREF(shape);
        Py_XDECREF(lengths);
        return NULL;
    }
    if (alias) {
        return Py_BuildValue("NNiiiiIIN", name, shape, FLY_FORM_ALIAS, 0, tensor.dtype,
                             tensor.dtype, 0u, tensor.source, lengths);
    }
    return Py_BuildValue("NNiiiiIIN", name, shape, tensor.form, tensor.flags, tensor.dtype,
                         tensor.storage, (unsigned)tensor.levels, tensor.first, lengths);
}

/* header_outlines(raw, bare, file_bytes, architecture or None, digest) -> list of tuples. */
static PyObject *header_outlines(PyObject *module, PyObject *arguments) {
    Py_buffer raw;
    const char *known, *digest;
    Py_ssize_t known_length, digest_length;
    fly_header header;
    fly_architecture architecture;
    void *workspace = NULL;
    size_t size, used;
    int bare;
    Py_ssize_t file_bytes;
    uint32_t place;
    fly_status status;
    PyObject *list = NULL;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "y*pnz#y#", &raw, &bare, &file_bytes, &known,
                          &known_length, &digest, &digest_length)) {
        return NULL;
    }
    architecture.tensors = (const uint8_t *)known;
    architecture.length = (size_t)known_length;
    memset(architecture.digest, 0, 8);
    memcpy(architecture.digest, digest, digest_length > 8 ? 8 : (size_t)digest_length);
    status = fly_header_open(&header, raw.buf, (size_t)raw.len, bare, (size_t)file_bytes);
    if (status == FLY_OK) {
        size = fly_header_workspace(&header, known == NULL ? NULL : &architecture);
        workspace = PyMem_Malloc(size == 0 ? 1 : size);
        if (workspace == NULL) {
            PyBuffer_Release(&raw);
            return PyErr_NoMemory();
        }
        Py_BEGIN_ALLOW_THREADS
        status = fly_header_index(&header, known == NULL ? NULL : &architecture, workspace, size,
                                  &used);
        Py_END_ALLOW_THREADS
    }
    if (status != FLY_OK) {
        raise_refused(&header, status);
    } else {
        list = PyList_New((Py_ssize_t)header.tensors);
    }
    for (place = 0; list != NULL && place < header.tensors; place++) {
        PyObject *item = outline(&header, place);
        if (item == NULL) {
            Py_CLEAR(list);
        } else {
            PyList_SetItem(list, (Py_ssize_t)place, item);
        }
    }
    PyMem_Free(workspace);
    PyBuffer_Release(&raw);
    return list;
}

PyMethodDef fly_header_methods[] = {
    {"header_metadata", header_metadata, METH_VARARGS, "Read the strings of metadata of a header."},
    {"header_outlines", header_outlines, METH_VARARGS, "Describe the tensors of a header."},
    {NULL, NULL, 0, NULL},
};
