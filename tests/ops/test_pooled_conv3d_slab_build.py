"""What nvcc makes of the pool and convolution over slabs on sm_90a: registers, and instructions."""

from __future__ import annotations

import pytest
from compiling import ROOT
from sm90_building import Report, compiled_for_hopper, opcodes

from fasti3d.ops.pooled_conv3d_slab.config import COLUMNS

SOURCE = ROOT / "csrc" / "pooled_conv3d_slab" / "cuda.cu"
# 3 warpgroups: 3 warps on each of an SM's 4 parts, of 16384 registers each. One leaves its own to the others.
MAX_REGISTERS, FEW, MANY = 168, 24, 240
KERNELS = {
    (rows, columns, bfloat) for rows, its in COLUMNS.items() for columns in its for bfloat in (False, True)
}


@pytest.fixture(scope="module")
def report() -> Report:
    return compiled_for_hopper(SOURCE)


@pytest.fixture(scope="module")
def kernels(report: Report) -> dict[tuple[int, ...], list[str]]:
    """The instructions of each kernel, by rows of blocks, columns, and whether it is of bfloat16."""
    return report.kernels("_pooled_conv3d_slab_kernel")


@pytest.mark.timeout(600)
def test_no_kernel_spills_registers(report: Report) -> None:
    registers = report.registers_without_spills()
    assert len(registers) == len(KERNELS)
    assert max(registers) <= MAX_REGISTERS


@pytest.mark.timeout(600)
def test_the_kernel_is_compiled_for_what_is_chosen(kernels: dict[tuple[int, ...], list[str]]) -> None:
    assert set(kernels) == KERNELS


@pytest.mark.timeout(600)
def test_registers_go_from_the_warps_that_copy_to_the_others(
    kernels: dict[tuple[int, ...], list[str]],
) -> None:
    assert 2 * MANY + FEW <= 3 * MAX_REGISTERS
    for lines in kernels.values():
        moved = [line.split() for line in lines if "USETMAXREG" in line]
        assert len(moved) == 2
        assert {words[-1] for words in moved} == {hex(FEW), hex(MANY)}


@pytest.mark.timeout(600)
def test_instructions_of_the_products(kernels: dict[tuple[int, ...], list[str]]) -> None:
    """The 1 or 2 products of a chunk, for each row of blocks, are a group; they read shared memory alone."""
    for (rows, columns, bfloat), lines in kernels.items():
        products = [line for line in lines if "HGMMA" in line]
        kind = f"HGMMA.64x{columns}x16.F32{'.BF16' if bfloat else ''} "
        assert all(kind in line and "gdesc" in line for line in products), products
        assert len(products) == (1 + 2) * rows
        assert sum("gsb0" in line for line in products) == 2
        waits = [line for line in lines if "WARPGROUP.DEPBAR" in line]
        assert [line.split()[-1] for line in waits] == ["0x0"] * 2
        counts = opcodes(lines)
        assert sum("UTMALDG.5D" in line for line in lines) == counts["UTMALDG"] == 1
        assert not {"LDL", "STL"} & set(counts), "it keeps registers in memory"
        assert not {"LDGSTS", "HMMA"} & set(counts)


@pytest.mark.timeout(600)
def test_instructions_of_the_pool(kernels: dict[tuple[int, ...], list[str]]) -> None:
    """Of a step with one frame and with two: 9 and 12 reads of 8 channels, 10 and 15 maxima of them, of which
    some are of three values, and a result each. A maximum is NaN if one of its values is.
    """
    for (rows, columns, _), lines in kernels.items():
        passes = rows * -(-columns // 16)
        assert sum("LDS.128" in line for line in lines) == 9 + 12 + 2 * passes
        assert sum("STS.128" in line for line in lines) == 1 + 2
        maxima = [line for line in lines if "HMNMX" in line]
        assert all(".NAN" in line for line in maxima)
        assert sum(2 if "VHMNMX" in line else 1 for line in maxima) == 4 * (10 + 15)
