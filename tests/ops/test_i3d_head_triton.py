"""The head's Triton kernel without a GPU: parity in the interpreter, and gates on what it compiles to."""

from __future__ import annotations

import itertools
import re

import pytest
import torch
from i3d_head_making import head_arguments

from fasti3d.ops.conv3d_bn_relu.model import shared_memory
from fasti3d.ops.dependent_launch import launch as dependent_launch

pytest.importorskip("triton", reason="triton is not installed")

from ahead_of_time import CHIPS, DEVICES, IN_FULL, Launch, Recorder, build, check_turn
from kernel_processes import assert_passes_interpreted

from fasti3d.ops.i3d_head import launch


def test_in_the_interpreter() -> None:
    assert_passes_interpreted("interpreted_i3d_head.py")


@pytest.mark.parametrize("device", DEVICES)
def test_the_kernel_compiles_to_what_it_should(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found: set[Launch] = set()
    capability = CHIPS[device].capability
    monkeypatch.setattr(dependent_launch, "overlaps", lambda device: capability >= (9, 0))
    monkeypatch.setattr(launch, "_average_head_kernel", Recorder(launch._average_head_kernel, found))
    windows = {(2, 7, 7): [(1, 1024, 2, 7, 7), (2, 1024, 2, 9, 8), (8, 1024, 8, 8, 10), (1, 1024, 16, 7, 7)]}
    dtypes: tuple[torch.dtype, ...] = (torch.float16,)
    # The builds of different chips differ in the assembler alone.
    if IN_FULL or device == "H200":
        windows |= {(5, 7, 7): [(1, 1024, 5, 7, 7), (2, 1024, 8, 8, 8)], (8, 4, 4): [(1, 2048, 8, 4, 4)]}
        dtypes += (torch.bfloat16, torch.float32)
    for window, shapes in windows.items():
        for dtype, shape in itertools.product(dtypes, shapes):
            arguments = head_arguments(shape, 4, dtype)
            launch.head(*(argument.to("meta") for argument in arguments), window)
    # Of one window or more, of an odd number of frames or, in half precision, an even one.
    assert len(found) == (2 * 2 * 2 + 2 if len(windows) > 1 else 2), "one build serves every size"
    for one in found:
        built = build(one, capability)
        assert (built.stack, built.local) == (0, 0)
        assert built.shared <= shared_memory(capability)
        check_turn(one, built.ptx, capability)
        constants = dict(one.constants)
        assert built.ptx.count("ld.global.v4.b32") >= constants["FRAMES"] * constants["STEPS"], "16 bytes"
        # What a chunk has written is there for whoever learns that it is: all its threads have come this far
        # before one tells, and none goes on before that one knows who else has told.
        before, after = built.ptx.split("atom.global.gpu.acq_rel.add.u32")
        *_, last_store, rest = re.split("st.global.b32", before)
        assert last_store
        assert "bar.sync" in rest
        assert "bar.sync" in after[: after.index("ld.global")]
        assert "ld.global.nc" not in built.ptx
