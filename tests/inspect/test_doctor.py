"""The diagnosis: known-bad versions as a pure function, and what it says of this machine."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from fasti3d.cli import app
from fasti3d.inspect import doctor
from fasti3d.ops.conv3d_bn_relu import tables
from fasti3d.ops.conv3d_bn_relu.config import Problem, choose
from fasti3d.ops.conv3d_slab import config as slabs
from fasti3d.ops.pooled_conv3d_slab import config as pooled_slabs
from fasti3d.runtime import extension


@pytest.mark.parametrize(
    ("torch_version", "cudnn", "issue"),
    [
        ("2.9.0+cu128", 91002, "163581"),
        ("2.9.0", 91500, "163581"),  # this torch bypasses every cuDNN from 9.8 on
        ("2.8.0+cu128", 90800, "163539"),
        ("2.9.1", 91002, "166643"),
        ("2.10.0+cu130", 91400, "174051"),
        ("2.13.0.dev20260101", 91400, "174051"),
    ],
)
def test_a_bad_pair_is_named_with_its_issue_and_a_remedy(torch_version: str, cudnn: int, issue: str) -> None:
    (problem,) = doctor.known_problems(torch_version, cudnn)
    assert f"#{issue}" in problem
    assert torch_version in problem
    assert "9.15 or later" in problem


@pytest.mark.parametrize(
    ("torch_version", "cudnn"),
    [("2.9.0", None), ("2.9.0", 90701), ("2.8.0", 8907), ("2.9.1", 91500), ("2.13.0+cu130", 91900)],
)
def test_a_good_pair_is_not_blamed(torch_version: str, cudnn: int | None) -> None:
    assert doctor.known_problems(torch_version, cudnn) == ()


def test_every_device_and_dtype_has_its_path_and_reason() -> None:
    diagnosis = doctor.diagnose()
    devices = {"cpu"} | {gpu.device for gpu in diagnosis.gpus}
    assert {(r.device, r.dtype) for r in diagnosis.routes} == {
        (device, dtype) for device in devices for dtype in ("float32", "bfloat16", "float16")
    }
    assert all(r.path in ("fused-gpu", "fused-cpu", "reference") and r.why for r in diagnosis.routes)
    assert {flow.device for flow in diagnosis.flow} == devices
    cpu = next(flow for flow in diagnosis.flow if flow.device == "cpu")
    assert cpu.path == ("reference" if extension.CORE is None else "compiled")
    assert diagnosis.versions["torch"] == torch.__version__
    assert diagnosis.cpu.threads == torch.get_num_threads()
    json.dumps(dataclasses.asdict(diagnosis))


def test_the_extension_that_loads_is_healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extension, "build_info", lambda: {"version": "1"})
    monkeypatch.setattr(extension, "load_error", lambda: None)
    diagnosis = doctor.diagnose()
    assert diagnosis.extension.state == "loaded"
    assert diagnosis.extension.remedy is None
    assert diagnosis.healthy


def test_the_extension_that_was_not_built_is_no_fault_but_has_a_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(extension, "build_info", lambda: None)
    monkeypatch.setattr(extension, "load_error", lambda: None)
    diagnosis = doctor.diagnose()
    assert diagnosis.extension.state == "not built"
    assert "FASTI3D_BUILD" in str(diagnosis.extension.remedy)
    assert diagnosis.healthy


def test_the_extension_that_does_not_load_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extension, "build_info", lambda: None)
    monkeypatch.setattr(extension, "load_error", lambda: "undefined symbol: aoti_torch_x")
    diagnosis = doctor.diagnose()
    assert diagnosis.extension.state == "broken"
    assert diagnosis.extension.error == "undefined symbol: aoti_torch_x"
    assert not diagnosis.healthy


def test_the_cache_is_listed_with_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTI3D_HOME", str(tmp_path))
    (tmp_path / "a.safetensors").write_bytes(b"12345")
    diagnosis = doctor.diagnose()
    assert diagnosis.home == str(tmp_path)
    assert diagnosis.home_from == "FASTI3D_HOME"
    assert [(Path(f.path).name, f.size) for f in diagnosis.cache] == [("a.safetensors", 5)]


def test_tables_in_use_and_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine with two GPUs, of which only the second has a table that is good."""
    gpus = {0: tables.Gpu("NVIDIA A100", (8, 0), 108), 1: tables.Gpu("NVIDIA H200", (9, 0), 132)}
    problem = Problem(8, 64, 192, (32, 56, 56), (3, 3, 3), (1, 1, 1), *gpus[1][1:])
    tile = slabs.Config(208, 1, 2, True, (1, 7, 28), 2, 2, 8)
    entries = {
        dataclasses.replace(problem, batch=batch): tables.Entry(choose(problem), 1e-4, 1e-4, slab)
        for batch, slab in enumerate((None, *(tables.Slab(tile, seconds) for seconds in (9e-5, 2e-4, None))))
    }
    recorded = {"torch": "2.13.0", "triton": "3.9.0", "date": "2026-11-22", "dtype": "float16"}
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned" / "nvidia-a100.json").write_text("{}")
    good = tmp_path / "tuned" / "nvidia-h200.json"
    pool = pooled_slabs.Problem(8, 192, 32, (32, 28, 28), 132)
    pooled = {pool: tables.Pooled(pooled_slabs.choose(pool), 5e-5, 1e-4)}
    good.write_text(tables.Table(gpus[1], recorded, entries, pooled).dumps())
    monkeypatch.setenv("FASTI3D_HOME", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(tables, "gpu", lambda device: gpus[device.index])
    found, refused = doctor._tuned()
    assert found == (doctor.TunedTable("cuda:1", str(good), 5, 2, recorded),)
    assert len(refused) == 1
    assert "nvidia-a100.json is not used" in refused[0]
    monkeypatch.undo()
    cards = tuple(doctor.GpuReport(f"cuda:{i}", it.name, "9.0", 1 << 30) for i, it in gpus.items())
    diagnosis = dataclasses.replace(doctor.diagnose(), gpus=cards, tuned=found, problems=refused)
    monkeypatch.setattr(doctor, "diagnose", lambda: diagnosis)
    out = CliRunner(env={"NO_COLOR": "1"}).invoke(app, ["doctor"]).stdout
    for said in (
        f"{good}: 5 convolutions, 2 over slabs, torch 2.13.0, triton 3.9.0, date 2026-11-22, dtype float16",
        "none, configurations are estimated: fasti3d tune measures them",
        refused[0],
    ):
        assert "".join(said.split()) in "".join(out.split())  # wherever lines end
