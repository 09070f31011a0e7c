// The Python module fasti3d._C_sm90a. Importing it registers the kernels of the operators that are
// made of Hopper's own instructions; it has nothing to call.
#include <Python.h>

PyMODINIT_FUNC PyInit__C_sm90a() {
  static PyModuleDef module = {PyModuleDef_HEAD_INIT, "fasti3d._C_sm90a",
                               "The kernels of fasti3d's operators for compute capability 9.0.", -1,
                               nullptr};
  return PyModule_Create(&module);
}
