// What fasti3d/engine/describe/watch.py asks of Python's own objects, without a step of Python's.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>

namespace fasti3d {

// The class and the __dict__ of each object, then the keys and values of each dict, in their order.
pybind11::list contents_of(const pybind11::list& objects, const pybind11::list& dicts);

// Whether all of that is the very same as `contents_of` found it.
bool holds_contents(const pybind11::list& objects, const pybind11::list& dicts,
                    const pybind11::list& contents);

// A number that changes if one of the objects' addresses or versions does, as the two descriptors
// have them: a method without arguments, and an attribute. All are whole numbers.
uint64_t traces(const pybind11::list& objects, const pybind11::object& address,
                const pybind11::object& version);

// A number for each class, which any change of it, or of a class that it inherits from, makes
// another one; None where Python has none for one of them.
pybind11::object class_versions(const pybind11::tuple& classes);

}  // namespace fasti3d
