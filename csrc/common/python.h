// Python's own API, as far as it stays the same from 3.10 on (PEP 384): one build serves every
// later Python.
#pragma once

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <memory>

#if !defined(Py_LIMITED_API) || Py_LIMITED_API != 0x030A0000
#error "the extension is tagged for Python 3.10 and later: Py_LIMITED_API is to be 0x030A0000"
#endif

namespace fasti3d {

struct Release {
  void operator()(PyObject* object) const { Py_DecRef(object); }
};
// A reference of one's own; empty where Python has set an error instead.
using Owned = std::unique_ptr<PyObject, Release>;

}  // namespace fasti3d
