"""Triton kernels compiled for GPUs that are not there."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.tools.tensor_descriptor import TensorDescriptor

from fasti3d.runtime.gpu import GpuTraits

CHIPS = {
    "H200": GpuTraits((9, 0), 132),
    "B200": GpuTraits((10, 0), 148),
    "RTX 5090": GpuTraits((12, 0), 170),
    "RTX 4090": GpuTraits((8, 9), 128),
    "RTX 3090": GpuTraits((8, 6), 82),
    "A100": GpuTraits((8, 0), 108),
}
# To parametrize tests by. The slow ones have the instructions of the A100 and the memory of the RTX 5090.
DEVICES = [
    pytest.param(name, marks=pytest.mark.slow) if name in ("RTX 4090", "RTX 3090") else name for name in CHIPS
]
# Whether everything that may be launched is compiled, which takes minutes, or what is chosen first.
IN_FULL = os.environ.get("FASTI3D_SLOW") == "1"
_HERE = Path(__file__).resolve().parent
_TYPES = {
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.float32: "fp32",
    torch.int32: "i32",
    torch.uint8: "u8",
}
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


class Launch(NamedTuple):
    """A kernel and what distinguishes its build: types of arguments, constants, options."""

    kernel: Any
    signature: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, Any], ...]
    options: tuple[tuple[str, Any], ...]


class Recorder:
    """Stands where a launcher has its kernel, and notes what is launched instead of doing so."""

    def __init__(self, kernel: Any, launches: set[Launch]) -> None:
        self.kernel = kernel
        self.launches = launches

    def __getitem__(self, grid: tuple[int, ...]) -> Recorder:
        return self

    def __call__(self, *arguments: Any, **options: Any) -> None:
        others = {name: options.pop(name) for name in self.kernel.arg_names if name in options}
        bound = self.kernel.signature.bind(*arguments, **others)
        bound.apply_defaults()
        named = bound.arguments
        constant = {p.name for p in self.kernel.params if p.is_constexpr or named[p.name] is None}
        signature = {name: "constexpr" if name in constant else _type(v) for name, v in named.items()}
        constants = {name: v for name, v in named.items() if name in constant}
        parts = (tuple(part.items()) for part in (signature, constants, options))
        self.launches.add(Launch(self.kernel, *parts))


def _type(value: Any) -> str:
    if isinstance(value, Tensor):
        assert value.data_ptr() % 16 == 0
        return "*" + _TYPES[value.dtype]
    if isinstance(value, TensorDescriptor):
        return f"tensordesc<{_TYPES[value.base.dtype]}{value.block_shape}>".replace(" ", "")
    if isinstance(value, float):
        return "fp32"
    assert isinstance(value, int)
    return "i32" if -(2**31) <= value < 2**31 else "i64"


class Built(NamedTuple):
    """What a kernel was compiled to; bytes of shared memory, and registers and bytes of
    stack and local memory of a thread.
    """

    ptx: str
    cubin: bytes
    main_loop: str
    shared: int
    registers: int
    stack: int
    local: int


def build(launch: Launch, capability: tuple[int, int]) -> Built:
    """Compiles as triton does at a launch, for a compute capability."""
    signature = dict(launch.signature)
    pointers = {
        (i,): [["tt.divisibility", 16]] for i, t in enumerate(signature.values()) if t.startswith("*")
    }
    source = ASTSource(launch.kernel, signature, dict(launch.constants), pointers)
    target = GPUTarget("cuda", capability[0] * 10 + capability[1], 32)
    compiled = triton.compile(source, target=target, options=dict(launch.options))
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        command = [CUOBJDUMP, "-res-usage", file.name]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers, stack, local = (int(re.search(rf"{w}:(\d+)", usage)[1]) for w in ("REG", "STACK", "LOCAL"))
    loop = _first_loop(compiled.asm["ttgir"])
    asm = compiled.asm
    return Built(asm["ptx"], asm["cubin"], loop, compiled.metadata.shared, registers, stack, local)


def check_turn(launch: Launch, ptx: str, capability: tuple[int, int]) -> None:
    """Where kernels are launched early, each waits before it touches memory, and lets the next one come."""
    early = dict(launch.options).get("launch_pdl", False)
    assert early == dict(launch.constants)["PDL"] == (capability >= (9, 0))
    if not early:
        assert "griddepcontrol" not in ptx
        return
    before, waits, after = ptx[ptx.index(".entry") :].partition("griddepcontrol.wait")
    assert waits, "it does not wait"
    touched = re.search(r"\b(ld\.global|st\.global|cp\.|atom\.|red\.|bra\b|ret;)[^\n]*", before)
    assert touched is None, f"before it waits: {touched}"
    assert "griddepcontrol.launch_dependents" in after


def _first_loop(ttgir: str) -> str:
    """The body of the first loop, by its indentation."""
    match = re.search(r"^( *)[^\n]*scf\.for[^\n]*\n(.*?)^\1\}", ttgir, re.MULTILINE | re.DOTALL)
    return match[2] if match else ""
