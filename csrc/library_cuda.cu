// The Python module fasti3d._C_cuda. Importing it registers the CUDA kernels of the operators; it
// has nothing to call.
#include <Python.h>

PyMODINIT_FUNC PyInit__C_cuda() {
  static PyModuleDef module = {PyModuleDef_HEAD_INIT, "fasti3d._C_cuda",
                               "The CUDA kernels of fasti3d's operators.", -1, nullptr};
  return PyModule_Create(&module);
}
