"""The CUDA solver's source run on the CPU: builds tests/ops/tvl1_serial.cpp and talks to it."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from compiling import compiled
from torch import Tensor
from tvl1_making import arguments
from waiting import PATIENCE

from fasti3d.flow.params import TVL1Params

SOURCE = Path(__file__).resolve().with_suffix(".cpp")
ADDRESS = ("-fsanitize=address", "--param", "asan-stack=0")  # shared memory is not on the stack here
RACES = ("-fsanitize=thread", "-g1", "-O0")  # which compiles in half the time, for few runs


@dataclass(frozen=True)
class Tiling:
    """How blocks share the work; zeros leave a choice to csrc/tvl1/cuda_plan.h."""

    groups: int = 1
    blocks: int = 1  # of a group
    halo: int = 0
    step: int = 0  # rows from tile to tile
    sweep: int = 0  # the most iterations between two exchanges


@dataclass(frozen=True)
class Clusters:
    """Thread-block clusters instead, each with a pair on the chip."""

    clusters: int = 1
    blocks: int = 1  # of a cluster


@dataclass(frozen=True)
class Serial:
    program: Path

    def solve(
        self,
        frame0: Tensor,
        frame1: Tensor,
        initial_flow: Tensor | None = None,
        tiling: Tiling | Clusters = Tiling(),
        *,
        exact: bool = True,
        order: int = 0,
        skipped: int = -1,
        **changes: Any,
    ) -> tuple[Tensor, Tensor]:
        """What ``fasti3d::tvl1`` returns. ``order`` of the threads of a block: 0 forward, 1 backward, else
        shuffled; ``skipped`` is a meeting or exchange of the blocks to leave out.
        """
        params = TVL1Params(**changes)
        pairs, height, width = frame0.shape
        given = initial_flow is not None
        clusters = isinstance(tiling, Clusters)
        settings = [pairs, height, width, frame0.dtype == torch.uint8, given, exact, clusters, order, skipped]
        settings += [*astuple(tiling), 0, 0, 0][:5]
        tensors = [frame0, frame1, *([initial_flow] if initial_flow is not None else [])]
        source, target = self.program.with_suffix(".in"), self.program.with_suffix(".out")
        with source.open("wb") as file:
            file.write((_line(settings) + _parameters(params)).encode())
            for tensor in tensors:
                file.write(tensor.contiguous().numpy().tobytes())
        command = [str(self.program), "solve", str(source), str(target)]
        # A block that reads nonsense may wait for ever for the others: stop at the first race.
        environment = os.environ | {"TSAN_OPTIONS": "halt_on_error=1"}
        subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=PATIENCE)
        content = bytearray(target.read_bytes())
        count = pairs * 2 * height * width
        flow = torch.frombuffer(content, dtype=torch.float32, count=count)
        iterations = torch.frombuffer(content, dtype=torch.int32, offset=4 * count)
        return (
            flow.view(pairs, 2, height, width),
            iterations.view(pairs, params.nscales, params.warps),
        )

    def plan(self, lines: list[tuple[int, int, int, int, int, TVL1Params]]) -> list[list[int]]:
        """For (blocks, bytes of L2, pairs, height, width, parameters): groups, blocks of a group, floats of a
        group; and for every level height, width, halo, sweep, tiles, the least and most cores that a pixel
        lies in, and the rows of the highest tile.
        """
        text = "\n".join(_line(list(line[:5])) + _parameters(line[5]) for line in lines)
        command = [str(self.program), "plan"]
        result = subprocess.run(command, input=text, check=True, capture_output=True, text=True)
        return [[int(word) for word in line.split()] for line in result.stdout.splitlines()]

    def clusters(self, lines: list[tuple[int, int, int, int, int, int]]) -> list[int]:
        """For (blocks of the largest cluster, sms, pairs, height, width, components): the blocks
        of a cluster, 0 for none.
        """
        text = "\n".join(_line(list(line)) for line in lines)
        command = [str(self.program), "clusters"]
        result = subprocess.run(command, input=text, check=True, capture_output=True, text=True)
        return [int(line) for line in result.stdout.splitlines()]


def _line(values: list[Any]) -> str:
    return "".join(f"{int(value) if isinstance(value, bool) else value!r} " for value in values)


def _parameters(params: TVL1Params) -> str:
    mode, *numbers = arguments(params)
    return _line([mode == "opencv-cuda", *numbers])


def build(folder: Path, *flags: str) -> Serial:
    """The program, compiled by g++; skips the test where there is none, or it lacks the sanitizer."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is not installed")
    if not SOURCE.exists() or not (SOURCE.parents[2] / "csrc").exists():
        pytest.skip("no sources beside the tests")
    base = ["-std=c++20", "-O1", "-ffp-contract=off", "-Wall", "-Werror", "-Wno-unknown-pragmas", "-pthread"]
    command = [compiler, *base, *flags, str(SOURCE)]

    def make(program: Path) -> None:
        result = subprocess.run([*command, "-o", str(program)], capture_output=True, text=True, check=False)
        if result.returncode != 0 and flags and "san" in result.stderr and "cannot find" in result.stderr:
            pytest.skip(f"g++ has no library for {flags[0]}")
        assert result.returncode == 0, result.stderr

    # What it reads and writes lies beside it.
    return Serial(Path(shutil.copy2(compiled(command, SOURCE, make), folder / "tvl1_serial")))
