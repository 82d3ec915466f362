/* quantize.c: binding of the loops of quantization and of the helpers of lossless coding.
 *
 * Each function takes buffers, whole numbers and at most one float, in the order of its docstring,
 * checks the lengths of the buffers, and returns a whole number.
 */
#include "../quantize/quantize.h"
#include "binding.h"

#define MOST_VIEWS 6

typedef struct call {
    Py_buffer views[MOST_VIEWS];
    Py_ssize_t numbers[3];
    double real;
    fly_matrix matrix;
    size_t result;
    int view_count, number_count, fits;
} call;

/* Run a statement without the GIL if the arguments fit. */
#define RUN_IF(condition, statement) \
    if (condition) {                 \
        c->fits = 1;                 \
        Py_BEGIN_ALLOW_THREADS       \
        statement;                   \
        Py_END_ALLOW_THREADS         \
    }

static int closed(call *c) {
    while (c->view_count > 0) {
        PyBuffer_Release(c->views + --c->view_count);
    }
    return 0;
}

/* Read the arguments: all buffers from the `writable`-th on are written, None is an empty one. */
static int opened(call *c, PyObject *args, int views, int numbers, int writable) {
    Py_ssize_t place;
    memset(c, 0, sizeof *c);
    c->numbers[numbers > 0 ? numbers - 1 : 0] = -1; /* what a last one that is missing means */
    for (place = 0; place < PyTuple_Size(args); place++) {
        PyObject *item = PyTuple_GetItem(args, place);
        if (PyFloat_Check(item)) {
            c->real = PyFloat_AsDouble(item);
        } else if (PyLong_Check(item) && c->number_count < numbers) {
            c->numbers[c->number_count++] = PyLong_AsSsize_t(item);
        } else if (c->view_count < views) {
            const int flags = c->view_count >= writable ? PyBUF_WRITABLE : PyBUF_SIMPLE;
            if (item != Py_None && PyObject_GetBuffer(item, c->views + c->view_count, flags) < 0) {
                return closed(c);
            }
            c->view_count++;
        }
    }
    if (c->view_count < views || PyErr_Occurred()) {
        if (!PyErr_Occurred()) {
            PyErr_SetString(PyExc_TypeError, "buffers are missing");
        }
        return closed(c);
    }
    return 1;
}

static PyObject *finished(call *c) {
    closed(c);
    if (!c->fits) {
        PyErr_SetString(PyExc_ValueError, "the lengths or types of the buffers do not match");
        return NULL;
    }
    return PyLong_FromSize_t(c->result);
}

/* Whether a buffer holds `count` items of this machine, aligned. */
static int holds(const call *c, int view, size_t count, size_t item) {
    const size_t length = (size_t)c->views[view].len;
    return length / item == count && length % item == 0 &&
           (length == 0 || (uintptr_t)c->views[view].buf % item == 0);
}

static size_t items(const call *c, int view, size_t item) {
    return (size_t)c->views[view].len / item;
}

static void *at(const call *c, int view) { return c->views[view].buf; }

/* The matrix in the first buffer, of the dtype of the first number; 0 if it is none. */
static int is_matrix(call *c, size_t rows) {
    const size_t length = (size_t)c->views[0].len, item = c->numbers[0] == FLY_FLOAT32 ? 4 : 2;
    if (c->numbers[0] < FLY_FLOAT16 || c->numbers[0] > FLY_FLOAT32 || rows == 0 ||
        length % (item * rows) != 0) {
        return 0;
    }
    c->matrix.values = at(c, 0);
    c->matrix.dtype = (fly_dtype)c->numbers[0];
    c->matrix.rows = rows;
    c->matrix.columns = length / (item * rows);
    return 1;
}

/* The number of words in a buffer, of as many bytes as the first number says; 0 if it has none. */
static int are_words(call *c, int view, size_t most, size_t *count) {
    const Py_ssize_t item = c->numbers[0];
    if (!(item == 1 || item == 2 || item == 4 || item == 8 || item == 16) || (size_t)item > most ||
        c->views[view].len % item != 0) {
        return 0;
    }
    *count = items(c, view, (size_t)item);
    return 1;
}

/* The bytes of a symbol in an output of `count`; 0 if it is none. */
static size_t symbol_bytes(const call *c, int view, size_t count) {
    return holds(c, view, count, 1) ? 1 : holds(c, view, count, 2) ? 2 : 0;
}

/* Define a function of so many buffers, those from `writable` on written, and so many numbers. */
#define DEFINE(name, views, numbers, writable)                       \
    static void name##_of(call *c);                                  \
    static PyObject *name(PyObject *module, PyObject *args) {        \
        call c;                                                      \
        (void)module;                                                \
        if (!opened(&c, args, views, numbers, writable)) {           \
            return NULL;                                             \
        }                                                            \
        name##_of(&c);                                               \
        return finished(&c);                                         \
    }                                                                \
    static void name##_of(call *c)

DEFINE(cheapest_clusters, 4, 0, 2) {
    const size_t size = items(c, 0, 8);
    RUN_IF(size > 1 && size < 0x7FFFFFFF && holds(c, 0, size, 8) && holds(c, 1, size, 8) &&
               items(c, 2, 20) >= size && (uintptr_t)at(c, 2) % 8 == 0 && holds(c, 3, size, 8),
           c->result = fly_cheapest_clusters(at(c, 0), at(c, 1), size - 1, c->real, at(c, 2),
                                            at(c, 3)))
}

/* The block of columns that the buffers hold: matrix, kept, bits or None, state, codes, changes;
 * and the numbers: rows of a group, columns, and the first of them. */
static int are_columns(const call *c, fly_columns *found) {
    const size_t rows = (size_t)c->numbers[0], columns = (size_t)c->numbers[1];
    const size_t values = items(c, 3, 8), bits = items(c, 2, 8), start = (size_t)c->numbers[2];
    size_t lines;
    if (c->number_count < 3 || c->numbers[0] < 1 || c->numbers[1] < 1 || c->numbers[2] < 0 ||
        values == 0 || values % columns != 0 || values / columns % rows != 0) {
        return 0;
    }
    lines = values / columns;
    found->matrix = at(c, 0);
    found->kept = at(c, 1);
    found->bits = at(c, 2);
    found->groups = lines / rows;
    found->rows = rows;
    found->columns = columns;
    found->start = start;
    found->end = start + items(c, 5, 8) / lines;
    found->largest = (ptrdiff_t)(bits / 2);
    found->worth = c->real;
    return columns <= ((size_t)1 << 24) && found->groups <= SIZE_MAX / columns / columns &&
           holds(c, 0, found->groups * columns * columns, 8) && holds(c, 1, values, 1) &&
           (at(c, 2) == NULL || (bits % 2 == 1 && holds(c, 2, bits, 8))) &&
           holds(c, 3, values, 8) && holds(c, 4, values, 8) &&
           holds(c, 5, lines * (found->end - start), 8) && start <= columns &&
           found->end - start <= columns - start;
}

DEFINE(gptq_first, 6, 3, 3) {
    fly_columns columns;
    RUN_IF(are_columns(c, &columns),
           fly_gptq_first(&columns, at(c, 3), at(c, 4), at(c, 5), fly_best_simd()))
}

DEFINE(gptq_sweep, 6, 3, 3) {
    fly_columns columns;
    RUN_IF(are_columns(c, &columns),
           fly_gptq_sweep(&columns, at(c, 3), at(c, 4), at(c, 5), fly_best_simd()))
}

/* None for factors has no memory, and so means that all are 1. */
DEFINE(rdoq, 4, 0, 3) {
    const size_t count = items(c, 0, 8), bits = items(c, 2, 8);
    RUN_IF(holds(c, 0, count, 8) && (at(c, 1) == NULL || holds(c, 1, count, 8)) &&
               holds(c, 2, bits, 8) && bits % 2 == 1 && bits < ((size_t)1 << 24) &&
               holds(c, 3, count, 4),
           c->result = fly_rdoq(at(c, 0), at(c, 1), count, at(c, 2), (ptrdiff_t)(bits / 2),
                                c->real, at(c, 3)))
}

DEFINE(measure_rows, 5, 2, 2) {
    const size_t rows = items(c, 1, 4);
    RUN_IF(is_matrix(c, rows) && holds(c, 1, rows, 4) && holds(c, 2, rows, 8) &&
               holds(c, 3, rows, 8) && holds(c, 4, rows, 8),
           fly_measure_rows(&c->matrix, at(c, 1), at(c, 2), at(c, 3), at(c, 4),
                            fly_chosen_simd((int)c->numbers[1])))
}

DEFINE(tally, 5, 2, 2) {
    const size_t rows = items(c, 1, 4);
    RUN_IF(is_matrix(c, rows) && holds(c, 1, rows, 4) && holds(c, 2, FLY_SLOTS, 8) &&
               holds(c, 3, FLY_SLOTS, 8) && holds(c, 4, rows, 8),
           fly_tally(&c->matrix, at(c, 1), at(c, 2), at(c, 3), at(c, 4),
                     fly_chosen_simd((int)c->numbers[1])))
}

DEFINE(large_multiples, 3, 1, 2) {
    const size_t rows = items(c, 1, 4);
    RUN_IF(is_matrix(c, rows) && holds(c, 1, rows, 4) && holds(c, 2, items(c, 2, 4), 4),
           c->result = fly_large_multiples(&c->matrix, at(c, 1), at(c, 2), items(c, 2, 4)))
}

DEFINE(grid_symbols, 6, 2, 5) {
    const size_t rows = items(c, 1, 4), large = items(c, 3, 4);
    size_t bytes = 0;
    RUN_IF(is_matrix(c, rows) && holds(c, 1, rows, 4) && holds(c, 2, FLY_SLOTS, 2) &&
               holds(c, 3, large, 4) && holds(c, 4, large, 2) &&
               (bytes = symbol_bytes(c, 5, rows * c->matrix.columns)) != 0,
           fly_grid_symbols(&c->matrix, at(c, 1), at(c, 2), at(c, 3), at(c, 4), large,
                            at(c, 5), bytes, fly_chosen_simd((int)c->numbers[1])))
}

DEFINE(histogram, 2, 1, 1) {
    size_t count;
    RUN_IF(are_words(c, 0, 4, &count) && c->numbers[0] > 1 && count <= FLY_BIN_VALUES &&
               holds(c, 1, FLY_BINS, 8),
           fly_histogram(at(c, 0), count, (size_t)c->numbers[0], at(c, 1)))
}

DEFINE(bin_symbols, 3, 1, 2) {
    size_t count, bytes = 0;
    RUN_IF(are_words(c, 0, 4, &count) && c->numbers[0] > 1 && holds(c, 1, FLY_BINS, 2) &&
               (bytes = symbol_bytes(c, 2, count)) != 0,
           fly_bin_symbols(at(c, 0), count, (size_t)c->numbers[0], at(c, 1), at(c, 2), bytes))
}

DEFINE(bin_errors, 3, 1, 2) {
    const size_t rows = items(c, 2, 8);
    RUN_IF(is_matrix(c, rows) && holds(c, 1, FLY_BINS, 4) && holds(c, 2, rows, 8),
           fly_bin_errors(&c->matrix, at(c, 1), at(c, 2)))
}

DEFINE(all_equal, 1, 1, 1) {
    size_t count;
    RUN_IF(are_words(c, 0, 16, &count),
           c->result = (size_t)fly_all_equal(at(c, 0), count, (size_t)c->numbers[0]))
}

DEFINE(distinct, 3, 1, 1) {
    const size_t limit = items(c, 1, 8);
    void *const table = PyMem_Malloc(fly_distinct_workspace());
    size_t count;
    RUN_IF(are_words(c, 0, 8, &count) && limit <= FLY_MOST_KNOWN && holds(c, 1, limit, 8) &&
               holds(c, 2, limit, 8) && table != NULL,
           c->result = fly_distinct(at(c, 0), count, (size_t)c->numbers[0], limit, table, at(c, 1),
                                    at(c, 2)))
    PyMem_Free(table);
}

DEFINE(places, 3, 1, 2) {
    const size_t known = items(c, 1, 8);
    void *const table = PyMem_Malloc(fly_distinct_workspace());
    size_t count, bytes = 0;
    RUN_IF(are_words(c, 0, 8, &count) && holds(c, 1, known, 8) &&
               (bytes = symbol_bytes(c, 2, count)) != 0 && known <= (size_t)1 << 8 * bytes &&
               table != NULL,
           c->fits = fly_places(at(c, 0), count, (size_t)c->numbers[0], at(c, 1), known, table,
                                at(c, 2), bytes))
    PyMem_Free(table);
}

DEFINE(narrow, 2, 2, 1) {
    const fly_dtype from = (fly_dtype)c->numbers[0], to = (fly_dtype)c->numbers[1];
    const size_t count = items(c, 0, from == FLY_FLOAT64 ? 8 : 4), item = fly_item_bytes(to);
    RUN_IF((from == FLY_FLOAT64 ? to == FLY_FLOAT16 || to == FLY_FLOAT32
                                : from == FLY_FLOAT32 &&
                                      (to == FLY_FLOAT16 || to == FLY_BFLOAT16 ||
                                       to == FLY_FLOAT8_E4M3FN || to == FLY_FLOAT8_E5M2)) &&
               (size_t)c->views[0].len == count * fly_item_bytes(from) &&
               (size_t)c->views[1].len == count * item,
           c->result = (size_t)fly_narrow(at(c, 0), count, from, to, at(c, 1)))
}

/* None for scales and offsets has no memory, and so means that there are none. */
DEFINE(dequantize, 5, 2, 4) {
    const size_t width = (size_t)c->numbers[0];
    const fly_dtype dtype = (fly_dtype)c->numbers[1];
    const size_t item = fly_item_bytes(dtype);
    if (item != 0 && (width == 1 || width == 2)) {
        const size_t count = items(c, 0, width), levels = items(c, 1, item);
        const size_t rows = at(c, 2) == NULL ? 1 : items(c, 2, item);
        uint8_t *const workspace = PyMem_Malloc(fly_dequantize_workspace(dtype, levels));
        RUN_IF((size_t)c->views[0].len == count * width &&
                   (size_t)c->views[1].len == levels * item &&
                   (at(c, 2) == NULL || (size_t)c->views[2].len == rows * item) &&
                   (at(c, 3) == NULL || c->views[3].len == c->views[2].len) &&
                   items(c, 4, item) == count && (size_t)c->views[4].len % item == 0 &&
                   (rows == 0 ? count == 0 : count % rows == 0) && workspace != NULL,
               c->fits = fly_dequantize(dtype, at(c, 0), width, rows, rows == 0 ? 0 : count / rows,
                                        at(c, 1), levels, at(c, 2), at(c, 3), workspace,
                                        at(c, 4)) == FLY_OK)
        PyMem_Free(workspace);
    }
}

#define METHOD(name, text) {#name, name, METH_VARARGS, #name text}

PyMethodDef fly_quantize_methods[] = {
    METHOD(cheapest_clusters,
           "(sums, totals, penalty, workspace, edges) -> how many are at the end of edges"),
    METHOD(gptq_first,
           "(matrix, kept, bits, state, codes, changes, rows, columns, start, worth)"),
    METHOD(gptq_sweep,
           "(matrix, kept, bits, state, codes, changes, rows, columns, start, worth)"),
    METHOD(rdoq, "(ratios, factors, bits, codes, worth) -> how many codes changed"),
    METHOD(measure_rows, "(values, dtype, limits, counts, squares, peaks, simd=-1)"),
    METHOD(tally, "(values, dtype, steps, counts, sums, squares, simd=-1)"),
    METHOD(large_multiples, "(values, dtype, steps, out) -> how many"),
    METHOD(grid_symbols, "(values, dtype, steps, table, large, symbols, out, simd=-1)"),
    METHOD(histogram, "(values, item, bins)"),
    METHOD(bin_symbols, "(values, item, table, out)"),
    METHOD(bin_errors, "(values, dtype, levels, squares)"),
    METHOD(all_equal, "(words, item) -> 1 if they are"),
    METHOD(distinct, "(words, item, found, counts) -> how many, one more than fit if too many"),
    METHOD(places, "(words, item, known, out)"),
    METHOD(narrow, "(values, from_dtype, to_dtype, out) -> 1 if all are exact"),
    METHOD(dequantize, "(symbols, symbol_bytes, levels, dtype, scales, offsets, out)"),
    {NULL, NULL, 0, NULL},
};
