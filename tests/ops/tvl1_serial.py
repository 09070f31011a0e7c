"""The CUDA solver's source run on the CPU: builds tests/ops/tvl1_serial.cpp and talks to it."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
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
    """How the groups of a launch share the work; zeros leave a choice to csrc/tvl1/cuda_choice.h."""

    groups: int = 1
    blocks: int = 1  # of a group
    halo: int = 0
    step: int = 0  # rows from tile to tile
    sweep: int = 0  # the most iterations between two exchanges
    levels: int = 0  # of the launch; 0 for all that are left


@dataclass(frozen=True)
class Clusters:
    """Thread-block clusters instead, each with a pair on the chip."""

    clusters: int = 1
    blocks: int = 1  # of a cluster
    levels: int = 0


# One launch, or several with the coarsest levels first.
Launches = Tiling | Clusters | tuple[Tiling | Clusters, ...]


@dataclass(frozen=True)
class GPU:
    """What runs at the same time on a GPU, and what its driver takes."""

    blocks: int
    l2_bytes: int
    clusters: tuple[int, int, int, int, int] = (0, 0, 0, 0, 0)  # of 1, 2, 4, 8 and 16 blocks
    cooperative: bool = True
    max_blocks: int = 1 << 30  # that wait for each other
    max_cluster: int = 16


@dataclass(frozen=True)
class Launch:
    """A part of the levels, as it is launched."""

    clusters: bool
    first: int  # level
    end: int
    groups: int
    blocks: int  # of a group
    floats: int  # of a group
    cycles: int  # modelled


@dataclass(frozen=True)
class Serial:
    program: Path

    def solve(
        self,
        frame0: Tensor,
        frame1: Tensor,
        initial_flow: Tensor | None = None,
        tiling: Launches = Tiling(),
        *,
        exact: bool = True,
        order: int = 0,
        skipped: int = -1,
        **changes: Any,
    ) -> tuple[Tensor, Tensor]:
        """What ``fasti3d::tvl1`` returns. ``order`` of the threads of a block: 0 forward, 1 backward, else
        shuffled; ``skipped`` is a meeting or exchange of the blocks to leave out, in the last launch.
        """
        params = TVL1Params(**changes)
        pairs, height, width = frame0.shape
        given = initial_flow is not None
        settings = [pairs, height, width, frame0.dtype == torch.uint8, given, exact, order, skipped]
        launches = tiling if isinstance(tiling, tuple) else (tiling,)
        parts = "".join(_launch(launch) for launch in launches)
        tensors = [frame0, frame1, *([initial_flow] if initial_flow is not None else [])]
        source, target = self.program.with_suffix(".in"), self.program.with_suffix(".out")
        with source.open("wb") as file:
            file.write((_line(settings) + _parameters(params) + _line([len(launches)]) + parts).encode())
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

    def plan(
        self,
        gpu: GPU,
        cases: list[tuple[int, int, int, TVL1Params]],
        design: str = "groups",
    ) -> list[list[Launch | None]]:
        """For (pairs, height, width, parameters): the launches; None for one that the driver does not take.
        ``design`` is what FASTI3D_TVL1_CUDA_DESIGN says.
        """
        device = _line(
            [gpu.blocks, gpu.cooperative, gpu.l2_bytes, *gpu.clusters, gpu.max_blocks, gpu.max_cluster]
        )
        lines = [f"{design} {device}" + _line(list(case[:3])) + _parameters(case[3]) for case in cases]
        return [_launches(line) for line in self._ask("plan", lines)]

    def knows(self, design: str) -> bool:
        """Whether FASTI3D_TVL1_CUDA_DESIGN may say so."""
        line = f"{design} " + _line([1, True, 1, *[0] * 5, 1, 1, 1, 16, 16]) + _parameters(TVL1Params())
        return self._ask("plan", [line])[0].strip() != "unknown"

    def tiles(self, cases: list[tuple[int, int, int, TVL1Params]]) -> list[list[tuple[int, ...]]]:
        """For (blocks, height, width, parameters), of every level height, width, halo, sweep, tiles, the
        least and most cores that a pixel lies in, and the rows of the highest tile.
        """
        lines = [_line(list(case[:3])) + _parameters(case[3]) for case in cases]
        numbers = [[int(word) for word in line.split()] for line in self._ask("tiles", lines)]
        return [list(zip(*[iter(its)] * 8, strict=True)) for its in numbers]

    def _ask(self, what: str, lines: list[str]) -> list[str]:
        command = [str(self.program), what]
        result = subprocess.run(command, input="\n".join(lines), check=True, capture_output=True, text=True)
        return result.stdout.splitlines()


def _launch(launch: Tiling | Clusters) -> str:
    if isinstance(launch, Clusters):
        return _line([True, launch.levels, launch.clusters, launch.blocks, 0, 0, 0])
    return _line([False, launch.levels, launch.groups, launch.blocks, launch.halo, launch.step, launch.sweep])


def _launches(line: str) -> list[Launch | None]:
    words, found = line.split(), list[Launch | None]()
    while words:
        if words[0] == "refused":
            found.append(None)
            del words[0]
            continue
        numbers = [int(word) for word in words[:7]]
        found.append(Launch(bool(numbers[0]), *numbers[1:]))
        del words[:7]
    return found


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
