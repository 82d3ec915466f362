/* module.c: the extension module flyweight._native. */
#include "binding.h"

fly_simd fly_chosen_simd(int simd) { return simd < 0 ? fly_best_simd() : (fly_simd)simd; }

static PyObject *best_simd(PyObject *module, PyObject *unused) {
    (void)module;
    (void)unused;
    return PyLong_FromLong((long)fly_best_simd());
}

static PyMethodDef own_methods[] = {
    {"best_simd", best_simd, METH_NOARGS, "Return the number of the best vector instructions."},
    {NULL, NULL, 0, NULL},
};

static int add_all(PyObject *module) {
    PyMethodDef *const all[] = {own_methods, fly_context_methods, fly_header_methods, fly_huffman_methods,
                                fly_planes_methods, fly_positions_methods, fly_quantize_methods,
                                fly_rans_methods, fly_repetition_methods};
    size_t index;
    for (index = 0; index < sizeof all / sizeof all[0]; index++) {
        if (PyModule_AddFunctions(module, all[index]) < 0) {
            return -1;
        }
    }
    return 0;
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, (void *)add_all}, {0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "flyweight._native", "The native core.", 0, NULL, slots, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__native(void) { return PyModuleDef_Init(&definition); }
