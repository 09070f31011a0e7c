"""Networks as files for other runtimes: ONNX, torch.export's archive, AOTInductor's package.

What was run of the files that ``fasti3d.export`` writes (torch 2.13, onnxruntime 1.32, OpenVINO 2026.4,
x86-64):

=====================  ============  =========================================================================
runtime                format        state
=====================  ============  =========================================================================
onnxruntime, CPU       onnx          run by every export where it is installed; float32, float16
OpenVINO, CPU          onnx          run by every export where it is installed
torch.export.load      torch-export  run by every export; float32, float16, bfloat16
AOTInductor, CPU       aoti          run by every export; needs a C++ compiler, at export only
onnxruntime, CUDA      onnx          not run
TensorRT               onnx          not run; knows all operators, asymmetric 3-D padding from sm_70 on
CoreML                 onnx          not run; dynamic shapes and 3-D average pools are fragile there
ExecuTorch             torch-export  not run; its XNNPACK has no 3-D convolution
=====================  ============  =========================================================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fasti3d.lazy import lazily

if TYPE_CHECKING:
    from fasti3d.exporting.api import Export
    from fasti3d.exporting.parity import Comparison, ParityError, Skipped
    from fasti3d.exporting.plain_operators import decompositions

__all__ = ["Comparison", "Export", "ParityError", "Skipped", "decompositions"]

_HOMES = {
    "Comparison": "fasti3d.exporting.parity",
    "Export": "fasti3d.exporting.api",
    "ParityError": "fasti3d.exporting.parity",
    "Skipped": "fasti3d.exporting.parity",
    "decompositions": "fasti3d.exporting.plain_operators",
}

__getattr__, __dir__ = lazily(__name__, _HOMES)
