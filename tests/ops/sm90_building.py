"""What nvcc makes of the kernels for sm_90a: ptxas' report, and their machine code."""

from __future__ import annotations

import re
import shutil
import subprocess
import sysconfig
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
from compiling import compiled
from torch.utils.cpp_extension import include_paths

TORCH_TARGET = "-DTORCH_TARGET_VERSION=0x020b000000000000"
# Between ptxas' report and the listing.
_CUT = "\n======\n"


@dataclass(frozen=True)
class Report:
    """ptxas' report, and the listing of the kernels' machine code."""

    ptxas: str
    listing: str

    def registers_without_spills(self) -> list[int]:
        """Registers of a thread of each kernel, none of which keeps any in memory, or waits for a product
        where that was not asked for.
        """
        assert "warning" not in self.ptxas
        # What ptxas says where it cannot keep products under way.
        assert "serialized" not in self.ptxas
        assert "injected" not in self.ptxas
        # And where it cannot give a warpgroup as many registers as it asks for.
        assert "ignored" not in self.ptxas
        kernels = self.ptxas.count("Compiling entry function")
        spilled = "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads"
        assert self.ptxas.count(spilled) == kernels
        registers = [int(n) for n in re.findall(r"Used (\d+) registers", self.ptxas)]
        assert len(registers) == kernels
        return registers

    def kernels(self, name: str) -> dict[tuple[int, ...], list[str]]:
        """The instructions of each kernel of a name, by its template arguments: numbers and flags."""
        found = {}
        for part in self.listing.split("Function : ")[1:]:
            its = re.match(rf"\w*{name}I((?:L[ib]\d+E)+)E", part)
            assert its, part[:100]
            arguments = tuple(int(n) for n in re.findall(r"L[ib](\d+)E", its[1]))
            found[arguments] = re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(.*?);", part, re.MULTILINE)
        return found


def compiled_for_hopper(source: Path) -> Report:
    """An operator and its kernels; skips the test where there is no nvcc."""
    nvcc = shutil.which("nvcc")
    triton = pytest.importorskip("triton")
    cuobjdump = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    if nvcc is None or not cuobjdump.exists():
        pytest.skip("nvcc or cuobjdump is not installed")
    if not source.exists():
        pytest.skip("no sources beside the tests")
    # The operator too, not only its kernels.
    command = [nvcc, "-c", "-Xcompiler", "-fPIC", "-O3", "-std=c++20", "-DUSE_CUDA", TORCH_TARGET]
    for path in [*include_paths("cpu"), sysconfig.get_path("include")]:
        command += ["-isystem", path]
    command += ["-gencode=arch=compute_90a,code=sm_90a", "-Xptxas", "-v", str(source)]

    def make(target: Path) -> None:
        library = target.with_suffix(".o")
        result = subprocess.run([*command, "-o", str(library)], capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        listing = subprocess.run([cuobjdump, "-sass", library], capture_output=True, text=True, check=True)
        library.unlink()
        target.write_text(result.stderr + _CUT + listing.stdout)

    return Report(*compiled(command, source, make).read_text().split(_CUT))


def opcodes(lines: list[str]) -> Counter[str]:
    """How often each instruction stands there, without its predicate and its modifiers."""
    return Counter(re.sub(r"^@!?U?P\w+ ", "", line).split()[0].partition(".")[0] for line in lines)
