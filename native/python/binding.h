/* binding.h: what the files of the CPython binding share. Limited API of CPython 3.11. */
#ifndef FLY_BINDING_H
#define FLY_BINDING_H

#define PY_SSIZE_T_CLEAN
#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030b0000
#endif
#include <Python.h>

#include "../flyweight.h"

/* The sentence of a status. */
const char *fly_sentence(fly_status status);

/* Raise flyweight.errors.FormatError with the sentence of a status; return NULL. */
PyObject *fly_raise(fly_status status);

/* The instructions to use: `simd` if it is not negative (tests), else the best there are. */
fly_simd fly_chosen_simd(int simd);

/* Release buffers and memory and return `result`, NULL where an exception was raised. */
PyObject *fly_finish(Py_buffer *views, int number, void *memory, PyObject *result);

/* Raise ValueError with a sentence; return NULL. */
PyObject *fly_refuse(const char *sentence);

/* Whether a buffer holds `count` items of so many bytes, aligned. */
int fly_holds(const Py_buffer *view, uint64_t count, size_t item);

/* Each file gives its functions in an array that ends with {NULL, NULL, 0, NULL}. */
extern PyMethodDef fly_context_methods[];
extern PyMethodDef fly_header_methods[];
extern PyMethodDef fly_huffman_methods[];
extern PyMethodDef fly_planes_methods[];
extern PyMethodDef fly_positions_methods[];
extern PyMethodDef fly_quantize_methods[];
extern PyMethodDef fly_rans_methods[];
extern PyMethodDef fly_repetition_methods[];

#endif
