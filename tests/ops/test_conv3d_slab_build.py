"""What nvcc makes of the kernel for slabs on sm_90a: registers, and the instructions of its loops."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
from compiling import ROOT
from sm90_building import Report, compiled_for_hopper, opcodes

from fasti3d.ops.conv3d_slab.config import POSITIONS

SOURCE = ROOT / "csrc" / "conv3d_slab" / "cuda.cu"
# 2 warpgroups and 2 warps that copy: 3 warps on one of an SM's 4 parts, of 16384 registers each.
MAX_REGISTERS = 168


@pytest.fixture(scope="module")
def report() -> Report:
    return compiled_for_hopper(SOURCE)


@pytest.fixture(scope="module")
def kernels(report: Report) -> dict[tuple[int, bool], list[str]]:
    """The instructions of each kernel, by columns of its products and whether they are of bfloat16."""
    return {
        (columns, bfloat == 1): lines
        for (columns, bfloat), lines in report.kernels("_conv3d_slab_kernel").items()
    }


@pytest.mark.timeout(600)
def test_no_kernel_spills_registers(report: Report) -> None:
    registers = report.registers_without_spills()
    assert len(registers) == 2 * len(POSITIONS)
    assert max(registers) <= MAX_REGISTERS


@pytest.mark.timeout(600)
def test_the_kernel_is_compiled_for_what_is_chosen(kernels: dict[tuple[int, bool], list[str]]) -> None:
    assert set(kernels) == {(columns, bfloat) for columns in POSITIONS for bfloat in (False, True)}


@pytest.mark.timeout(600)
def test_instructions_of_the_loops(kernels: dict[tuple[int, bool], list[str]]) -> None:
    """The 1 to 4 products of a stage are one group, which is under way while the next begins. Copies are one
    instruction each, and products read shared memory alone.
    """
    for (columns, bfloat), lines in kernels.items():
        products = [line for line in lines if "HGMMA" in line]
        kind = f"HGMMA.64x{columns}x16.F32{'.BF16' if bfloat else ''} "
        assert all(kind in line and "gdesc" in line for line in products), products
        assert len(products) == 1 + 2 + 3 + 4
        assert sum("gsb0" in line for line in products) == 4
        waits = [line for line in lines if "WARPGROUP.DEPBAR" in line]
        assert sorted(line.split()[-1] for line in waits) == ["0x0", *["0x1"] * 4]
        counts = opcodes(lines)
        assert counts["UTMALDG"] == counts["UBLKCP"] == 1
        assert sum("UTMALDG.5D" in line for line in lines) == 1
        assert sum("UBLKCP.S.G.MULTICAST" in line for line in lines) == 1
        assert not {"LDL", "STL"} & set(counts), "it keeps registers in memory"
        assert not {"LDGSTS", "HMMA"} & set(counts)


@pytest.mark.timeout(600)
def test_length_of_the_loop_over_taps(kernels: dict[tuple[int, bool], list[str]]) -> None:
    """From a stage's products to those of the next: no division, no fence across the cluster."""
    for lines in kernels.values():
        first = next(i for i, line in enumerate(lines) if "HGMMA" in line)
        last = len(lines) - next(i for i, line in enumerate(reversed(lines)) if "HGMMA" in line)
        loop = opcodes(lines[first - 40 : last + 40])
        assert not {"MUFU", "I2F", "F2I", "MEMBAR", "CCTL", "BAR"} & set(loop)
        # All four forms of a stage, of which one runs.
        assert last - first < 160


def test_setup_compiles_slabs_for_hopper_alone() -> None:
    """In a library of its own, where Hopper is asked for; the other kernels for all that is asked for."""
    if shutil.which("nvcc") is None or not SOURCE.exists():
        pytest.skip("nvcc is not installed, or there are no sources beside the tests")
    asked = {"": True, "9.0": True, "8.0 9.0a+PTX": True, "Hopper": True, "8.0;10.0": False}
    script = """
import json, os, runpy, sys
asked, its = json.loads(sys.argv[1]), runpy.run_path("csrc/extensions.py")
its["find_toolkit"]()
from torch.utils import cpp_extension
cpp_extension.CUDA_HOME = os.environ["CUDA_HOME"]
for architectures in asked:
    os.environ["TORCH_CUDA_ARCH_LIST"] = architectures
    found = its["extensions"]("cuda")
    print(json.dumps({it.name: (it.sources, it.extra_compile_args) for it in found}))
"""
    command = [sys.executable, "-c", script, json.dumps(list(asked))]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    slabs = {str(path.relative_to(ROOT)) for path in (ROOT / "csrc").glob("*_slab/cuda.cu")}
    assert len(slabs) == 2
    for built, line in zip(asked.values(), result.stdout.splitlines()[-len(asked) :], strict=True):
        found = json.loads(line)
        sources, options = found["fasti3d._C_cuda"]
        assert not slabs & set(sources)
        assert not any("arch" in flag for flag in options["nvcc"]), "torch adds what was asked for"
        assert ("fasti3d._C_sm90a" in found) == built
        if built:
            sources, options = found["fasti3d._C_sm90a"]
            assert slabs <= set(sources)
            flags = [flag for flag in options["nvcc"] if "arch" in flag]
            assert flags == ["-gencode=arch=compute_90a,code=sm_90a"]
