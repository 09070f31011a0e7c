// What fasti3d/engine/describe/watch.py asks of Python's own objects, without a step of Python's.
#pragma once

#include "../common/python.h"

#include <cstdint>
#include <optional>

namespace fasti3d {

// Lists of what to look at.
struct Watched {
  PyObject *objects, *dicts;
};

// The class and the __dict__ of each object, then the keys and values of each dict, in their
// order: a list that keeps them, and their addresses. Null where Python has set an error.
PyObject* contents_of(const Watched& watched);

// Whether all of that is the very same as at those addresses; -1 where Python has set an error.
int holds_contents(const Watched& watched, PyObject* addresses);

// A number that changes if one of the objects' addresses or versions does, as the two descriptors
// have them: a method without arguments, and an attribute. All are whole numbers. Nothing where
// Python has set an error.
std::optional<uint64_t> traces(PyObject* objects, PyObject* address, PyObject* version);

}  // namespace fasti3d
