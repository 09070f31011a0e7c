"""What the emulators of kernels over slabs have in common: how they are built, asked and answer."""

from __future__ import annotations

import math
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor
from waiting import PATIENCE


class EmulatorError(Exception):
    """What the emulator found wrong with the schedule."""


def program(source: Path) -> Path:
    """An emulator, compiled by g++; skips the test where there is none."""
    # Here and not at the top: tests on a GPU do without what this needs.
    from compiling import compiled

    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is not installed")
    if not source.exists() or not (source.parents[2] / "csrc").exists():
        pytest.skip("no sources beside the tests")
    flags = ["-std=c++20", "-O3", "-march=native", "-Wall", "-Werror", "-Wno-unknown-pragmas"]
    command = [compiler, *flags, str(source)]

    def make(target: Path) -> None:
        result = subprocess.run([*command, "-o", str(target)], capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr

    return compiled(command, source, make)


def answer(
    program: Path, numbers: Iterable[int], tensors: Iterable[Tensor], around: Tensor, out_channels: int
) -> Tensor:
    """The result of a run, or an EmulatorError.

    Args:
        program: what it reads and writes lies beside it.
        numbers: the line that it reads first.
        tensors: the clip, weights, bias and output, whose bytes follow.
        around: NaN, of which the output is all but the first 8 values, with its channels from the 8th on.
        out_channels: how many those are.
    """
    source, target = program.with_suffix(".in"), program.with_suffix(".out")
    with source.open("wb") as file:
        file.write((" ".join(str(int(n)) for n in numbers) + "\n").encode())
        for tensor in tensors:
            file.write(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    command = [str(program), "run", str(source), str(target)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    if result.returncode != 0:
        raise EmulatorError(result.stderr.strip())
    whole = around.clone()
    whole.view(-1)[8:] = torch.frombuffer(bytearray(target.read_bytes()), dtype=around.dtype)
    part = whole[..., 8 : 8 + out_channels]
    found = part.permute(0, 4, 1, 2, 3).clone()
    part.fill_(math.nan)
    if not whole.isnan().all():
        raise EmulatorError("it writes beside its output")
    return found


def plans(program: Path, lines: Iterable[Sequence[int]]) -> list[list[int]]:
    """What it plans for each line of numbers that can run."""
    text = "\n".join(" ".join(map(str, line)) for line in lines)
    result = subprocess.run([str(program), "plan"], input=text, check=True, capture_output=True, text=True)
    return [[int(word) for word in line.split()] for line in result.stdout.splitlines()]
