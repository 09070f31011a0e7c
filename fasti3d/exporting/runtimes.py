"""The runtimes that an exported file is run in: onnxruntime, OpenVINO, and torch for its own formats."""

from __future__ import annotations

import importlib
import importlib.metadata
import io
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

# What runs a file: clips in, results out, in the order of the file.
Run = Callable[[Sequence[Tensor]], list[Tensor]]


class Runtime(NamedTuple):
    """A program that can run files of some formats.

    Attributes:
        name: of its package, whose version is noted.
        open: the file's bytes, made ready to run.
        install: how it is installed.
    """

    name: str
    open: Callable[[bytes], Run]
    install: str

    def version(self) -> str | None:
        """The installed version; None if it cannot be imported."""
        try:
            importlib.import_module(self.name)
            return importlib.metadata.version(self.name)
        except (ImportError, importlib.metadata.PackageNotFoundError):
            return None


def _onnxruntime(data: bytes) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]

    def run(clips: Sequence[Tensor]) -> list[Tensor]:
        found = session.run(None, {name: x.numpy() for name, x in zip(names, clips, strict=True)})
        return [torch.from_numpy(y) for y in found]

    return run


def _openvino(data: bytes) -> Run:
    import openvino

    core = openvino.Core()
    # Half precision is then a choice of the file, not of the CPU.
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(core.read_model(model=data), "CPU", options)

    def run(clips: Sequence[Tensor]) -> list[Tensor]:
        found = compiled([x.numpy() for x in clips])
        return [torch.from_numpy(found[output].copy()) for output in compiled.outputs]

    return run


def _torch_export(data: bytes) -> Run:
    return _called(torch.export.load(io.BytesIO(data)).module())


def _aoti(data: bytes) -> Run:
    return _called(torch._inductor.aoti_load_package(io.BytesIO(data)))


def _called(network: Callable[..., object]) -> Run:
    def run(clips: Sequence[Tensor]) -> list[Tensor]:
        with torch.no_grad():
            found = network(*clips)
        return [found] if isinstance(found, Tensor) else list(found)  # type: ignore[call-overload]

    return run


_EXTRA = "pip install 'fasti3d[export]'"
RUNTIMES: dict[str, tuple[Runtime, ...]] = {
    "onnx": (
        Runtime("onnxruntime", _onnxruntime, _EXTRA),
        Runtime("openvino", _openvino, "pip install openvino"),
    ),
    "torch-export": (Runtime("torch", _torch_export, "pip install torch"),),
    "aoti": (Runtime("torch", _aoti, "pip install torch"),),
}
