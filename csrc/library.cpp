// The Python module fasti3d._C.
//
// Importing it registers the kernels of the fasti3d:: operators, whose schemas are in Python
// (fasti3d/ops/registry.py), through torch's stable ABI, so that one build serves later versions of
// torch. What it has to call is about the build itself, and about Python's own objects.
#include <exception>

#include "common/caches.h"
#include "common/isa.h"
#include "common/python.h"
#include "conv3d/direct_blocking.h"
#include "watch/watch.h"

#define FASTI3D_TEXT_(x) #x
#define FASTI3D_TEXT(x) FASTI3D_TEXT_(x)

namespace {

using fasti3d::Owned;

PyObject* build_info(PyObject*, PyObject*) {
  const auto sets = fasti3d::instruction_sets();
  const Owned names(PyList_New(0));
  if (!names) return nullptr;
  for (const auto& set : sets) {
    const Owned name(PyUnicode_FromString(set.c_str()));
    if (!name || PyList_Append(names.get(), name.get()) < 0) return nullptr;
  }
  return Py_BuildValue("{s:s,s:s,s:s,s:s,s:N}", "version", FASTI3D_TEXT(FASTI3D_VERSION),
                       "compiler", __VERSION__, "torch", FASTI3D_TEXT(FASTI3D_TORCH_VERSION),
                       "cuda_architectures", FASTI3D_TEXT(FASTI3D_CUDA_ARCHITECTURES),
                       "instruction_sets", PyList_AsTuple(names.get()));
}

PyObject* isa(PyObject*, PyObject*) {
  return PyUnicode_FromString(fasti3d::isa_name(fasti3d::isa()));
}

PyObject* limit_isa(PyObject*, PyObject* arguments) {
  const char* name;
  if (!PyArg_ParseTuple(arguments, "s:limit_isa", &name)) return nullptr;
  try {
    fasti3d::limit_isa(name);
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
    return nullptr;
  }
  Py_RETURN_NONE;
}

PyObject* has_bf16_dot(PyObject*, PyObject*) { return PyBool_FromLong(fasti3d::has_bf16_dot()); }

PyObject* has_amx_bf16(PyObject*, PyObject*) { return PyBool_FromLong(fasti3d::has_amx_bf16()); }

PyObject* caches(PyObject*, PyObject*) {
  const auto& sizes = fasti3d::caches();
  return Py_BuildValue("(LL)", (long long)sizes.l1, (long long)sizes.l2);
}

PyObject* direct_blocking(PyObject*, PyObject* arguments, PyObject* named) {
  static const char* const names[] = {"rows", "max_panels", "tiles", "panels",  "taps",
                                      "run",  "l1",         "l2",    "threads", nullptr};
  long long rows, max_panels, tiles, panels, taps, run, l1, l2, threads;
  if (!PyArg_ParseTupleAndKeywords(arguments, named, "$LLLLLLLLL:direct_blocking",
                                   const_cast<char**>(names), &rows, &max_panels, &tiles, &panels,
                                   &taps, &run, &l1, &l2, &threads)) {
    return nullptr;
  }
  const auto b =
      fasti3d::block({rows, max_panels, tiles, panels, taps, run, 1, 4, true}, {l1, l2}, threads);
  return Py_BuildValue("{s:L,s:L,s:L,s:L,s:L}", "tile_shares", (long long)b.tile_shares,
                       "panel_shares", (long long)b.panel_shares, "tiles", (long long)b.tiles,
                       "taps", (long long)b.taps, "run", (long long)b.run);
}

PyObject* contents_of(PyObject*, PyObject* arguments) {
  fasti3d::Watched watched;
  if (!PyArg_ParseTuple(arguments, "O!O!:contents_of", &PyList_Type, &watched.objects, &PyList_Type,
                        &watched.dicts)) {
    return nullptr;
  }
  return fasti3d::contents_of(watched);
}

PyObject* holds_contents(PyObject*, PyObject* arguments) {
  fasti3d::Watched watched;
  PyObject *kept, *addresses;
  if (!PyArg_ParseTuple(arguments, "O!O!(OO):holds_contents", &PyList_Type, &watched.objects,
                        &PyList_Type, &watched.dicts, &kept, &addresses)) {
    return nullptr;
  }
  const int held = fasti3d::holds_contents(watched, addresses);
  return held < 0 ? nullptr : PyBool_FromLong(held);
}

PyObject* traces(PyObject*, PyObject* arguments) {
  PyObject *objects, *address, *version;
  if (!PyArg_ParseTuple(arguments, "O!OO:traces", &PyList_Type, &objects, &address, &version)) {
    return nullptr;
  }
  const auto found = fasti3d::traces(objects, address, version);
  return found ? PyLong_FromUnsignedLongLong(*found) : nullptr;
}

PyMethodDef methods[] = {
    {"build_info", build_info, METH_NOARGS, "What the operators were built with and for."},
    {"isa", isa, METH_NOARGS,
     "The instruction set in use, one of build_info()['instruction_sets']."},
    {"limit_isa", limit_isa, METH_VARARGS, "Uses no more than this instruction set from now on."},
    {"has_bf16_dot", has_bf16_dot, METH_NOARGS, "Whether bfloat16 dot products run in hardware."},
    {"has_amx_bf16", has_amx_bf16, METH_NOARGS, "Whether the CPU has bfloat16 matrix tiles."},
    {"caches", caches, METH_NOARGS, "Bytes of a core's L1 data cache and of its L2 cache."},
    {"direct_blocking",
     reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(direct_blocking)),
     METH_VARARGS | METH_KEYWORDS,
     "How a float32 convolution of windows of one frame is cut (csrc/conv3d/direct_blocking.h)."},
    {"contents_of", contents_of, METH_VARARGS,
     "What lists of objects and dicts hold, for holds_contents."},
    {"holds_contents", holds_contents, METH_VARARGS,
     "Whether all is the very same as contents_of found it."},
    {"traces", traces, METH_VARARGS,
     "A number that changes if an object's address or version does, as the descriptors have them."},
    {nullptr, nullptr, 0, nullptr}};

PyModuleDef module = {PyModuleDef_HEAD_INIT,
                      "fasti3d._C",
                      "What fasti3d's C++ operators were built for and what they run on.",
                      0,
                      methods,
                      nullptr,
                      nullptr,
                      nullptr,
                      nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__C() { return PyModule_Create(&module); }
