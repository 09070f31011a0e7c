"""When kernels are launched early, and that the assembler lets none of them begin before its turn."""

from __future__ import annotations

import re
import subprocess
import tempfile

import pytest
import torch

from fasti3d.runtime.gpu import GpuTraits

pytest.importorskip("triton", reason="triton is not installed")

import triton
from ahead_of_time import CUOBJDUMP
from triton import language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fasti3d.ops.dependent_launch import launch as dependent_launch
from fasti3d.ops.dependent_launch.launch import in_turn_options
from fasti3d.ops.dependent_launch.triton_kernels import in_turn


@triton.jit
def _copy_kernel(x_ptr, y_ptr, block: tl.constexpr, early: tl.constexpr):
    in_turn(early)
    i = tl.program_id(0) * block + tl.arange(0, block)
    tl.store(y_ptr + i, tl.load(x_ptr + i))


@pytest.mark.parametrize("early", [True, False])
def test_the_assembler_keeps_the_wait_in_front(early: bool) -> None:
    signature = {"x_ptr": "*fp16", "y_ptr": "*fp16", "block": "constexpr", "early": "constexpr"}
    source = ASTSource(_copy_kernel, signature, {"block": 1024, "early": early})
    options = {"launch_pdl": early, "enable_fp_fusion": False}
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["cubin"])
        file.flush()
        command = [CUOBJDUMP, "-sass", file.name]
        sass = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.findall(r"\b(ACQBULK|PREEXIT|LDG|STG)\b", sass)
    assert found[: 2 if early else 0] == ["ACQBULK", "PREEXIT"][: 2 if early else 0]
    assert set(found[2 if early else 0 :]) == {"LDG", "STG"}


def test_gpus_that_launch_early(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cuda", 0)
    for capability, early in (((8, 0), False), ((8, 9), False), ((9, 0), True), ((12, 0), True)):
        traits = GpuTraits(capability, 132)
        monkeypatch.setattr(dependent_launch, "gpu_traits", lambda _, traits=traits: traits)
        assert in_turn_options(device) == ({"PDL": True, "launch_pdl": True} if early else {})
    assert in_turn_options(torch.device("cpu")) == {}
