"""benchmarks/gpu_check.sh: it goes on after a failure, and what it runs needs little but torch and pytest."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.first_light import PARTS

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu_check.sh"
FILES = [file for pattern in ("*_cuda.py", "*/*_cuda.py") for file in sorted((ROOT / "tests").glob(pattern))]
# All that they hold is a part of its own.
SANITIZERS = [file for file in FILES if "sanitizer" in file.name]
# By the call that runs them: the records of benchmarks, and the suites that they are of.
RECORDS = {
    "tune": {"gpu_questions": "gpu_questions", "gpu_stem": "gpu_questions"},
    "record": {"i3d_forward": "i3d_forward", "gpu_layers": "gpu_layers", "i3d_compiled": "i3d_forward"},
    "flow": {name: name for name in ("tvl1_gpu", "two_stream", "fvd")},
    "training": {"training_gpu": "training_gpu"},
    "others": {name: name for name in ("mixed_block", "max_pool3d_same", "i3d_head", "frames", "fuse")},
}
# These put theirs together.
MERGED = ("record", "flow")
SUITES = sorted({suite for records in RECORDS.values() for suite in records.values()})
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
    """And every part has some: of a file without any, pytest would say that it failed."""
    found = collect(bare, *FILES)
    assert {line.split("::")[0] for line in found} == {str(file.relative_to(ROOT)) for file in FILES}
    rest = [line for line in found if "sanitizer" not in line and "every_candidate" not in line]
    assert {ROOT / line.split("::")[0] for line in rest} == set(FILES) - set(SANITIZERS)
    for words, option in (
        ("sanitizer", '"sanitizer and not defaults"'),
        ("every_candidate", "every_candidate"),
    ):
        assert any(words in line for line in found)
        assert f"-k {option} &" in SCRIPT.read_text()
    assert any("sanitizer" in line and "defaults" in line for line in found)


def test_gpu_benchmarks_need_no_more_either(bare: dict[str, str]) -> None:
    files = {f"benchmarks/test_{suite}.py" for suite in SUITES}
    assert {line.split("::")[0] for line in collect(bare, *files)} == files
    assert all(f"benchmark {suite} " in SCRIPT.read_text() for suite in SUITES)


def test_programs_and_reports_need_no_more_either(bare: dict[str, str]) -> None:
    programs = ("tune_table", "profile_steps", "merge_records", "first_light")
    assert all(program in SCRIPT.read_text() for program in programs)
    record = ROOT / "benchmarks" / "results" / "zen4-2-threads-0.1.0.json"
    code = f"import sys; from benchmarks import report, {', '.join(programs)}; report.main()"
    result = run(
        [sys.executable, "-c", code, str(record)], bare | {"PYTHONPATH": f"{bare['PYTHONPATH']}:{ROOT}"}
    )
    assert result.returncode == 0, result.stderr
    assert "## I3D forward" in result.stdout


# Stands in for a Python with a GPU: the sanitizer's part fails, and benchmarks write what they are called.
STUB = """#!/bin/sh
case "$*" in
  *get_device_capability*) echo 9.0 ;;
  *get_device_name*) echo a GPU ;;
  *"-k sanitizer and not"*) echo "ERROR: race"; exit 3 ;;
  *first_light*parity*) echo "a line"; echo "ValueError: wrong"; exit 1 ;;
  *first_light*) echo "a line" ;;
  *--benchmark-json*)
    for one; do case "$one" in --benchmark-json=*) echo "$*" > "${one#*=}" ;; esac; done ;;
  *merge_records*) while [ "$1" != --output ]; do all="$all $1"; shift; done; echo "$all" > "$2" ;;
esac
"""


@pytest.fixture
def stubbed(tmp_path: Path) -> dict[str, str]:
    """The environment of a Python with a GPU that does nothing; what is written lies in ``out``."""
    if shutil.which("bash") is None:
        pytest.skip("bash is not installed")
    stub = tmp_path / "python"
    stub.write_text(STUB)
    stub.chmod(0o755)
    return os.environ | {"PYTHON": str(stub)}


def states(folder: Path) -> dict[str, str]:
    """What the summary says, by part."""
    first, *parts = (folder / "out" / "summary.txt").read_text().splitlines()
    assert first == "a GPU"
    return {line.split()[0]: line.split(" s  ")[1] for line in parts}


def test_it_goes_on_after_a_part_that_fails(stubbed: dict[str, str], tmp_path: Path) -> None:
    result = run(["bash", str(SCRIPT), "out"], stubbed, tmp_path)
    assert result.returncode == 1, result.stderr
    found = states(tmp_path)
    parity = [
        "parity-" + file.name[len("test_") : -len("_cuda.py")] for file in FILES if file not in SANITIZERS
    ]
    # These run beside the others.
    assert found.pop("sanitizer") == "FAILED (3): ERROR: race"
    assert found.pop("parity-candidates") == "passed"
    for name in ("parity-conv3d_bn_relu", "parity-pools_triton"):
        assert found.pop(name) == "passed"
        parity.remove(name)
    parts = {call: [f"benchmark-{name}" for name in records] for call, records in RECORDS.items()}
    parts["tune"] = ["tune", *parts["tune"], "profile"]
    for call in MERGED:
        parts[call].append(f"report-{call}")
    assert list(found) == ["build", *parity, *itertools.chain(*parts.values())]
    assert set(found.values()) == {"passed"}


@pytest.mark.parametrize("call", RECORDS)
def test_each_call_runs_its_own_parts(call: str, stubbed: dict[str, str], tmp_path: Path) -> None:
    table = tmp_path / "nvidia-h200.json"
    table.write_text("a table")
    result = run(["bash", str(SCRIPT), "out", call], stubbed | {"TABLE": table.name}, tmp_path)
    assert result.returncode == 0, result.stderr
    found = states(tmp_path)
    assert next(iter(found)) == "build"
    assert [name for name in found if name.startswith("benchmark")] == [
        f"benchmark-{n}" for n in RECORDS[call]
    ]
    for name, suite in RECORDS[call].items():
        assert f"benchmarks/test_{suite}.py" in (tmp_path / "out" / f"{name}.json").read_text()
    if call in MERGED:
        merged = (tmp_path / "out" / f"{call}.json").read_text()
        assert all(f"out/{name}.json" in merged for name in RECORDS[call])
    # Where torch's device finds its own (fasti3d.utils.cache_dir).
    assert (tmp_path / "out" / "home" / "tuned" / table.name).read_text() == "a table"


def test_first_light_prints_what_it_knows_and_goes_on(stubbed: dict[str, str], tmp_path: Path) -> None:
    result = run(["bash", str(SCRIPT), "out", "first"], stubbed, tmp_path)
    assert result.returncode == 1, result.stderr
    found = states(tmp_path)
    assert found.pop("parity") == "FAILED (1): ValueError: wrong"
    lights = ["machine", "warm", "network", "launches", "baseline", "overlap", "pooled", "flow"]
    others = ["build", "benchmark-gpu_questions", "counters", "sanitizer-defaults"]
    assert sorted(found) == sorted([*lights, *others])
    assert set(found.values()) == {"passed"}
    assert result.stdout.count("a line\n") == len(lights) + 1
    names = [line.split()[0] for line in (tmp_path / "out" / "summary.txt").read_text().splitlines()[1:]]
    assert names.index("build") < min(map(names.index, ("pooled", "flow"))), "which need what was built"
    assert set(PARTS) == {*lights, "parity"}


def test_it_refuses_what_it_does_not_know(stubbed: dict[str, str], tmp_path: Path) -> None:
    result = run(["bash", str(SCRIPT), "out", "everything"], stubbed, tmp_path)
    assert (result.returncode, "usage:" in result.stderr) == (2, True)
    result = run(["bash", str(SCRIPT), "out", "record"], stubbed | {"TABLE": "missing.json"}, tmp_path)
    assert (result.returncode, "missing.json" in result.stderr) == (2, True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="it would run")
@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    for arguments, said in (([], "usage:"), ([str(tmp_path / "out")], "torch finds no CUDA GPU")):
        result = run(["bash", str(SCRIPT), *arguments], os.environ | {"PYTHON": sys.executable})
        assert result.returncode == 2
        assert said in result.stderr
