#include "watch.h"

namespace fasti3d {
namespace py = pybind11;

namespace {

// Calls `see(object)` with all that counts, in order, until it returns false. None of this runs
// Python code, which could change what is being walked.
template <typename See>
bool walk(const py::list& objects, const py::list& dicts, const See& see) {
  for (const py::handle object : objects) {
    const auto dict =
        py::reinterpret_steal<py::object>(PyObject_GenericGetDict(object.ptr(), nullptr));
    if (!dict) throw py::error_already_set();
    if (!see(reinterpret_cast<PyObject*>(Py_TYPE(object.ptr()))) || !see(dict.ptr())) return false;
  }
  for (const py::handle dict : dicts) {
    PyObject *key, *value;
    Py_ssize_t at = 0;
    while (PyDict_Next(dict.ptr(), &at, &key, &value)) {
      if (!see(key) || !see(value)) return false;
    }
  }
  return true;
}

}  // namespace

py::list contents_of(const py::list& objects, const py::list& dicts) {
  for (const py::handle dict : dicts) {
    if (!PyDict_Check(dict.ptr())) throw py::type_error("dicts must be a list of dicts");
  }
  py::list found;
  walk(objects, dicts, [&](PyObject* object) {
    found.append(py::handle(object));
    return true;
  });
  return found;
}

bool holds_contents(const py::list& objects, const py::list& dicts, const py::list& contents) {
  const Py_ssize_t size = PyList_GET_SIZE(contents.ptr());
  Py_ssize_t next = 0;
  // By identity: what the list keeps alive is not freed, so that nothing new has its address.
  const bool same = walk(objects, dicts, [&](PyObject* object) {
    return next < size && object == PyList_GET_ITEM(contents.ptr(), next++);
  });
  return same && next == size;
}

uint64_t traces(const py::list& objects, const py::object& address, const py::object& version) {
  const descrgetfunc get = Py_TYPE(version.ptr())->tp_descr_get;
  if (get == nullptr) throw py::type_error("version must be an attribute of a class");
  uint64_t found = objects.size();
  // Each step takes different numbers to different ones, so that no single change is lost.
  const auto add = [&](PyObject* number) {
    const auto its = py::reinterpret_steal<py::object>(number);
    const uint64_t value = its ? PyLong_AsUnsignedLongLongMask(its.ptr()) : 0;
    if (PyErr_Occurred() != nullptr) throw py::error_already_set();
    found = (found ^ value) * 0x9e3779b97f4a7c15;
    found ^= found >> 32;
  };
  // By index, and held: what is called could change the list.
  for (size_t i = 0; i < objects.size(); ++i) {
    const py::object object = objects[i];
    add(PyObject_CallOneArg(address.ptr(), object.ptr()));
    add(get(version.ptr(), object.ptr(), reinterpret_cast<PyObject*>(Py_TYPE(object.ptr()))));
  }
  return found;
}

py::object class_versions(const py::tuple& classes) {
  py::tuple versions(classes.size());
  for (size_t i = 0; i < classes.size(); ++i) {
    auto* type = reinterpret_cast<PyTypeObject*>(PyTuple_GET_ITEM(classes.ptr(), i));
    if (!PyType_Check(type)) throw py::type_error("classes must be a tuple of classes");
    // What Python's own cache of attributes goes by.
    if (!PyType_HasFeature(type, Py_TPFLAGS_VALID_VERSION_TAG) || type->tp_version_tag == 0) {
      return py::none();
    }
    versions[i] = py::int_(type->tp_version_tag);
  }
  return versions;
}

}  // namespace fasti3d
