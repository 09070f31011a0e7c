// The Python module fasti3d._C.
//
// Importing it registers the kernels of the fasti3d:: operators, whose schemas are in Python
// (fasti3d/ops/registry.py), through torch's stable ABI, so that one build serves later versions of
// torch; pybind11 carries what is about the build itself, and about Python's own objects.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "common/caches.h"
#include "common/isa.h"
#include "conv3d/direct_blocking.h"
#include "watch/watch.h"

#define FASTI3D_TEXT_(x) #x
#define FASTI3D_TEXT(x) FASTI3D_TEXT_(x)

PYBIND11_MODULE(_C, m) {
  m.doc() = "What fasti3d's C++ operators were built for and what they run on.";
  m.def("build_info", [] {
    pybind11::dict info;
    info["version"] = FASTI3D_TEXT(FASTI3D_VERSION);
    info["compiler"] = __VERSION__;
    info["torch"] = FASTI3D_TEXT(FASTI3D_TORCH_VERSION);
    info["cuda_architectures"] = FASTI3D_TEXT(FASTI3D_CUDA_ARCHITECTURES);
    info["instruction_sets"] = pybind11::tuple(pybind11::cast(fasti3d::instruction_sets()));
    return info;
  });
  m.def(
      "isa", [] { return fasti3d::isa_name(fasti3d::isa()); },
      "The instruction set in use, one of build_info()['instruction_sets'].");
  m.def("limit_isa", &fasti3d::limit_isa, pybind11::arg("name"),
        "Uses no more than this instruction set from now on.");
  m.def("has_bf16_dot", &fasti3d::has_bf16_dot, "Whether bfloat16 dot products run in hardware.");
  m.def(
      "caches", [] { return pybind11::make_tuple(fasti3d::caches().l1, fasti3d::caches().l2); },
      "Bytes of a core's L1 data cache and of its L2 cache.");
  m.def(
      "direct_blocking",
      [](int64_t rows, int64_t max_panels, int64_t tiles, int64_t panels, int64_t taps, int64_t run,
         int64_t l1, int64_t l2, int64_t threads) {
        const auto b = fasti3d::block({rows, max_panels, tiles, panels, taps, run, 1, 4, true},
                                      {l1, l2}, threads);
        pybind11::dict cut;
        cut["tile_shares"] = b.tile_shares;
        cut["panel_shares"] = b.panel_shares;
        cut["tiles"] = b.tiles;
        cut["taps"] = b.taps;
        cut["run"] = b.run;
        return cut;
      },
      pybind11::kw_only(), pybind11::arg("rows"), pybind11::arg("max_panels"),
      pybind11::arg("tiles"), pybind11::arg("panels"), pybind11::arg("taps"), pybind11::arg("run"),
      pybind11::arg("l1"), pybind11::arg("l2"), pybind11::arg("threads"),
      "How a float32 convolution of windows of one frame is cut (csrc/conv3d/direct_blocking.h).");
  m.def("has_amx_bf16", &fasti3d::has_amx_bf16, "Whether the CPU has bfloat16 matrix tiles.");
  m.def("traces", &fasti3d::traces, pybind11::arg("objects"), pybind11::arg("address"),
        pybind11::arg("version"),
        "A number that changes if an object's address or version does, as the descriptors have "
        "them.");
  m.def("contents_of", &fasti3d::contents_of, pybind11::arg("objects"), pybind11::arg("dicts"),
        "Classes and __dict__s of objects, then the keys and values of dicts.");
  m.def("holds_contents", &fasti3d::holds_contents, pybind11::arg("objects"),
        pybind11::arg("dicts"), pybind11::arg("contents"),
        "Whether all is the very same as contents_of found it.");
  m.def("class_versions", &fasti3d::class_versions, pybind11::arg("classes"),
        "A number for each class, which any change of it makes another; None where there is none.");
}
