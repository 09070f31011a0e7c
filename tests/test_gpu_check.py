"""benchmarks/gpu_check.sh: it goes on after a failure, and what it runs needs little but torch and pytest."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "benchmarks" / "gpu_check.sh"
FILES = [
    file
    for folder in ("tests", "tests/ops", "tests/metrics")
    for file in sorted((ROOT / folder).glob("*_cuda.py"))
]
SUITES = [
    "tvl1_gpu",
    "two_stream",
    "fvd",
    "i3d_forward",
    "conv3d",
    "mixed_block",
    "max_pool3d_same",
    "fuse",
    "frames",
    "i3d_head",
]
# What the package and its tests use elsewhere, as a module that Python imports when it starts.
WITHOUT = """
import sys

class Without:
    names = {
        "av", "cv2", "filelock", "hypothesis", "matplotlib", "openvino", "platformdirs", "pytest_timeout",
        "rich", "safetensors", "skimage", "typer",
    }

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Without())
"""


@pytest.fixture
def bare(tmp_path: Path) -> dict[str, str]:
    """The environment of a Python that lacks most packages."""
    (tmp_path / "sitecustomize.py").write_text(WITHOUT)
    return os.environ | {"PYTHONPATH": str(tmp_path), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}


def run(
    command: list[str], environment: dict[str, str], folder: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def collect(environment: dict[str, str], *arguments: object) -> list[str]:
    """The GPU tests of some files, without running them."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "gpu"]
    result = run([*command, "-p", "pytest_benchmark.plugin", *map(str, arguments)], environment)
    assert result.returncode == 0, result.stdout + result.stderr
    return [line for line in result.stdout.splitlines() if "::" in line]


def test_gpu_tests_need_no_more_than_torch_and_pytest(bare: dict[str, str]) -> None:
    found = collect(bare, *FILES)
    assert {line.split("::")[0] for line in found} == {str(file.relative_to(ROOT)) for file in FILES}
    assert any("sanitizer" in line for line in found)


@pytest.mark.parametrize("suite", SUITES)
def test_gpu_benchmarks_need_no_more_either(bare: dict[str, str], suite: str) -> None:
    assert suite in SCRIPT.read_text()
    assert collect(bare, f"benchmarks/test_{suite}.py")


def test_reports_need_no_more_either(bare: dict[str, str]) -> None:
    record = next((ROOT / "benchmarks" / "results").glob("*.json"))
    bare["PYTHONPATH"] += f"{os.pathsep}{ROOT}"
    result = run([sys.executable, "benchmarks/report.py", str(record)], bare)
    assert result.returncode == 0, result.stderr
    assert "## I3D forward" in result.stdout


# Stands in for a Python with a GPU: only the sanitizer's part fails.
STUB = """#!/bin/sh
case "$*" in
  *get_device_capability*) echo 9.0 ;;
  *get_device_name*) echo a GPU ;;
  *"-k sanitizer"*) echo "ERROR: race"; exit 3 ;;
esac
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_it_goes_on_after_a_part_that_fails(tmp_path: Path) -> None:
    stub = tmp_path / "python"
    stub.write_text(STUB)
    stub.chmod(0o755)
    result = run(["bash", str(SCRIPT), "out"], os.environ | {"PYTHON": str(stub)}, tmp_path)
    assert result.returncode == 1, result.stderr
    first, *parts = (tmp_path / "out" / "summary.txt").read_text().splitlines()
    assert first == "a GPU"
    states = {line.split()[0]: line.split(" s  ")[1] for line in parts}
    assert states.pop("sanitizer") == "FAILED (3): ERROR: race"
    parity = ["parity-" + file.name[len("test_") : -len("_cuda.py")] for file in FILES]
    assert list(states) == ["build", *parity, *(f"benchmark-{suite}" for suite in SUITES)]
    assert set(states.values()) == {"passed"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="it would run")
@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    for arguments, said in (([], "usage:"), ([str(tmp_path / "out")], "torch finds no CUDA GPU")):
        result = run(["bash", str(SCRIPT), *arguments], os.environ | {"PYTHON": sys.executable})
        assert result.returncode == 2
        assert said in result.stderr
