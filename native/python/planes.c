/* planes.c: binding of byte planes. Threads share the chunks `first` to `last` - 1 of all words. */
#include "../encoders.h"
#include "binding.h"

/* The words of a buffer of values, and a range of their chunks. */
typedef struct part {
    const uint8_t *words;
    uint64_t number, blocks, chunks, first, last;
    size_t width;
    fly_dtype dtype;
} part;

static int find_part(part *p, const Py_buffer *values, unsigned dtype, uint64_t first,
                     uint64_t last) {
    int rotated;
    p->dtype = (fly_dtype)dtype;
    p->width = fly_planes_word(p->dtype, &rotated);
    if (p->width == 0 || (size_t)values->len % fly_item_bytes(p->dtype) > 0) {
        fly_refuse("the values do not have this dtype");
        return 0;
    }
    p->words = values->buf;
    p->number = (uint64_t)values->len / p->width;
    p->blocks = (p->number + FLY_PLANES_BLOCK - 1) / FLY_PLANES_BLOCK;
    p->chunks = (p->number + FLY_PLANES_CHUNK - 1) / FLY_PLANES_CHUNK;
    p->first = first;
    p->last = last;
    if (first > last || last > p->chunks) {
        fly_refuse("there are not so many chunks");
        return 0;
    }
    return 1;
}

static size_t chunk_size(const part *p, uint64_t chunk) {
    const uint64_t left = p->number - chunk * FLY_PLANES_CHUNK;
    return (size_t)(left < FLY_PLANES_CHUNK ? left : FLY_PLANES_CHUNK);
}

static const uint8_t *chunk_words(const part *p, uint64_t chunk) {
    return p->words + (size_t)chunk * FLY_PLANES_CHUNK * p->width;
}

/* Place of a chunk's plans in the buffer of all, checked by `plans_fit`. */
static fly_plan *chunk_plans(const part *p, const Py_buffer *plans, uint64_t chunk) {
    return (fly_plan *)plans->buf + chunk * (FLY_PLANES_CHUNK / FLY_PLANES_BLOCK) * p->width;
}

static int plans_fit(const part *p, const Py_buffer *plans, const Py_buffer *sizes) {
    if (fly_holds(plans, p->blocks * p->width * (sizeof(fly_plan) / 8), 8) &&
        fly_holds(sizes, p->chunks, 8)) {
        return 1;
    }
    fly_refuse("the plans do not match");
    return 0;
}

static PyObject *plan_bytes(PyObject *module, PyObject *unused) {
    (void)module;
    (void)unused;
    return PyLong_FromSize_t(sizeof(fly_plan));
}

static PyObject *plan(PyObject *module, PyObject *args) {
    Py_buffer views[3]; /* values, plans, sizes */
    unsigned dtype;
    int spare;
    unsigned long long first, last;
    void *workspace = NULL;
    part p;
    (void)module;
    if (!PyArg_ParseTuple(args, "y*IpKKw*w*", views, &dtype, &spare, &first, &last, views + 1,
                          views + 2)) {
        return NULL;
    }
    if (!find_part(&p, views, dtype, first, last) || !plans_fit(&p, views + 1, views + 2)) {
        return fly_finish(views, 3, NULL, NULL);
    }
    workspace = PyMem_Malloc(fly_planes_plan_workspace());
    if (workspace == NULL) {
        return fly_finish(views, 3, NULL, PyErr_NoMemory());
    }
    Py_BEGIN_ALLOW_THREADS
    for (; p.first < p.last; p.first++) {
        ((uint64_t *)views[2].buf)[p.first] = fly_planes_plan(
            p.dtype, chunk_words(&p, p.first), chunk_size(&p, p.first), spare,
            chunk_plans(&p, views + 1, p.first), workspace);
    }
    Py_END_ALLOW_THREADS
    return fly_finish(views, 3, workspace, Py_BuildValue(""));
}

static PyObject *encode(PyObject *module, PyObject *args) {
    Py_buffer views[3]; /* values, plans, sizes */
    PyObject *result;
    unsigned dtype;
    int simd = -1;
    unsigned long long first, last;
    void *workspace = NULL;
    fly_status status = FLY_OK;
    uint64_t place = 0, chunk;
    part p;
    (void)module;
    if (!PyArg_ParseTuple(args, "y*Iy*y*KKS|i", views, &dtype, views + 1, views + 2, &first, &last,
                          &result, &simd)) {
        return NULL;
    }
    if (!find_part(&p, views, dtype, first, last) || !plans_fit(&p, views + 1, views + 2)) {
        return fly_finish(views, 3, NULL, NULL);
    }
    workspace = PyMem_Malloc(fly_planes_encode_workspace(p.dtype));
    if (workspace == NULL) {
        return fly_finish(views, 3, NULL, PyErr_NoMemory());
    }
    /* `result` comes from `new_bytes`, and nobody reads it before all chunks are written. */
    Py_BEGIN_ALLOW_THREADS
    for (chunk = 0; chunk < p.last && status == FLY_OK; chunk++) {
        const uint64_t size = ((const uint64_t *)views[2].buf)[chunk];
        if (size > (uint64_t)PyBytes_Size(result) - place) {
            status = FLY_BAD_ARGUMENT;
        } else if (chunk >= p.first) {
            status = fly_planes_encode(p.dtype, fly_chosen_simd(simd), chunk_words(&p, chunk),
                                       chunk_size(&p, chunk), chunk_plans(&p, views + 1, chunk),
                                       (uint8_t *)PyBytes_AsString(result) + place, (size_t)size,
                                       workspace);
        }
        place += size;
    }
    Py_END_ALLOW_THREADS
    return fly_finish(views, 3, workspace,
                  status == FLY_OK ? Py_BuildValue("") : fly_refuse("the values have changed"));
}

static PyObject *decode(PyObject *module, PyObject *args) {
    Py_buffer views[2]; /* data, values */
    unsigned dtype;
    int simd = -1;
    unsigned long long first, last;
    Py_ssize_t more = -1;
    uint64_t count;
    void *workspace;
    size_t size;
    fly_status status;
    part p;
    (void)module;
    if (!PyArg_ParseTuple(args, "y*IKKw*|in", views, &dtype, &first, &last, views + 1, &simd,
                          &more)) {
        return NULL;
    }
    if (!find_part(&p, views + 1, dtype, first, last)) {
        return fly_finish(views, 2, NULL, NULL);
    }
    count = (uint64_t)views[1].len / fly_item_bytes(p.dtype);
    size = fly_planes_workspace(p.dtype, more < 0 ? count : 0) + (more < 0 ? 0 : (size_t)more);
    workspace = PyMem_Malloc(size);
    if (workspace == NULL) {
        return fly_finish(views, 2, NULL, PyErr_NoMemory());
    }
    Py_BEGIN_ALLOW_THREADS
    status = fly_planes_decode(p.dtype, fly_chosen_simd(simd), views[0].buf, (size_t)views[0].len,
                               count, first, last, views[1].buf, workspace, size);
    Py_END_ALLOW_THREADS
    return fly_finish(views, 2, workspace,
                      status == FLY_OK ? Py_BuildValue("") : fly_raise(status));
}

PyMethodDef fly_planes_methods[] = {
    {"planes_plan_bytes", plan_bytes, METH_NOARGS, "Return the bytes of a plan."},
    {"planes_plan", plan, METH_VARARGS,
     "planes_plan(values, dtype, spare, first, last, plans, sizes): fill plans and sizes.\n\n"
     "dtype is its number; sizes (uint64) are of chunks."},
    {"planes_encode", encode, METH_VARARGS,
     "planes_encode(values, dtype, plans, sizes, first, last, payload[, simd]): write chunks."},
    {"planes_decode", decode, METH_VARARGS,
     "planes_decode(data, dtype, first, last, values[, simd[, memory]]): fill chunks.\n\n"
     "memory is of the workspace, in bytes beyond the least."},
    {NULL, NULL, 0, NULL},
};
