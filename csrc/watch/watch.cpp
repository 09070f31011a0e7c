#include "watch.h"

#include <span>
#include <vector>

namespace fasti3d {

namespace {

// Calls `see(object)` with all that counts, in order, until it returns false or Python has set an
// error; whether it came to the end. None of this runs a user's code, which could change what is
// being walked.
template <typename See>
bool walk(const Watched& watched, const See& see) {
  for (Py_ssize_t i = 0; i < PyList_Size(watched.objects); ++i) {
    PyObject* object = PyList_GetItem(watched.objects, i);
    const Owned dict(PyObject_GenericGetDict(object, nullptr));
    if (!dict || !see(reinterpret_cast<PyObject*>(Py_TYPE(object))) || !see(dict.get())) {
      return false;
    }
  }
  for (Py_ssize_t i = 0; i < PyList_Size(watched.dicts); ++i) {
    PyObject* dict = PyList_GetItem(watched.dicts, i);
    PyObject *key, *value;
    Py_ssize_t at = 0;
    while (PyDict_Next(dict, &at, &key, &value)) {
      if (!see(key) || !see(value)) return false;
    }
  }
  return true;
}

}  // namespace

PyObject* contents_of(const Watched& watched) {
  for (Py_ssize_t i = 0; i < PyList_Size(watched.dicts); ++i) {
    if (!PyDict_Check(PyList_GetItem(watched.dicts, i))) {
      PyErr_SetString(PyExc_TypeError, "dicts must be a list of dicts");
      return nullptr;
    }
  }
  const Owned kept(PyList_New(0));
  if (!kept) return nullptr;
  std::vector<PyObject*> addresses;
  const bool whole = walk(watched, [&](PyObject* object) {
    addresses.push_back(object);
    return PyList_Append(kept.get(), object) == 0;
  });
  if (!whole) return nullptr;
  return Py_BuildValue("Oy#", kept.get(), reinterpret_cast<const char*>(addresses.data()),
                       Py_ssize_t(addresses.size() * sizeof(PyObject*)));
}

int holds_contents(const Watched& watched, PyObject* addresses) {
  char* bytes;
  Py_ssize_t size;
  if (PyBytes_AsStringAndSize(addresses, &bytes, &size) < 0) return -1;
  const std::span then(reinterpret_cast<PyObject* const*>(bytes), size / sizeof(PyObject*));
  size_t next = 0;
  // By identity: what is kept is not freed, so that nothing new has its address.
  const bool same =
      walk(watched, [&](PyObject* object) { return next < then.size() && object == then[next++]; });
  if (PyErr_Occurred() != nullptr) return -1;
  return same && next == then.size();
}

std::optional<uint64_t> traces(PyObject* objects, PyObject* address, PyObject* version) {
  const auto get =
      reinterpret_cast<descrgetfunc>(PyType_GetSlot(Py_TYPE(version), Py_tp_descr_get));
  if (get == nullptr) {
    PyErr_SetString(PyExc_TypeError, "version must be an attribute of a class");
    return std::nullopt;
  }
  uint64_t found = PyList_Size(objects);
  // Each step takes different numbers to different ones, so that no single change is lost.
  const auto add = [&](const Owned& number) {
    const uint64_t value = number ? PyLong_AsUnsignedLongLongMask(number.get()) : 0;
    found = (found ^ value) * 0x9e3779b97f4a7c15;
    found ^= found >> 32;
    return PyErr_Occurred() == nullptr;
  };
  // By index, and held: what is called could change the list.
  for (Py_ssize_t i = 0; i < PyList_Size(objects); ++i) {
    PyObject* const object = PyList_GetItem(objects, i);
    const Owned held(Py_NewRef(object));
    if (!add(Owned(PyObject_CallFunctionObjArgs(address, object, nullptr))) ||
        !add(Owned(get(version, object, reinterpret_cast<PyObject*>(Py_TYPE(object)))))) {
      return std::nullopt;
    }
  }
  return found;
}

}  // namespace fasti3d
