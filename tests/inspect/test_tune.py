"""``fasti3d tune`` without a GPU: which launches it finds, what it holds them against, and what it keeps."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from i3d_making import NARROW
from tolerances import assert_close
from torch import Tensor
from typer.testing import CliRunner

from benchmarks import tune_table
from fasti3d import network
from fasti3d.cli import app
from fasti3d.inspect import tune
from fasti3d.inspect.tune import Candidate, Geometry, Result, Trial, fault, select
from fasti3d.ops.conv3d_bn_relu import PackedConv3d, tables
from fasti3d.ops.conv3d_bn_relu import geometry as conv3d
from fasti3d.ops.conv3d_bn_relu.candidates import candidates
from fasti3d.ops.conv3d_bn_relu.config import Problem, choose
from fasti3d.ops.conv3d_bn_relu.packed import SlabConv3d, TritonConv3d, pack_triton
from fasti3d.ops.conv3d_bn_relu.tables import Entry, Gpu, Slab
from fasti3d.ops.conv3d_slab import config as slabs
from fasti3d.runtime import builds, gpu
from fasti3d.runtime.precision import Precision
from fasti3d.same_padding import pad_same
from fasti3d.utils.cache_dir import cache_dir

CPU = torch.device("cpu")
H200 = Gpu("NVIDIA H200", (9, 0), 132)
PROBLEM = Problem(8, 64, 192, (32, 56, 56), (3, 3, 3), (1, 1, 1), *H200[1:])
SMALLEST = "1,3,9,193,193"


@pytest.fixture
def h200(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Makes the CPU pass for an H200 to all but the kernels, and networks narrow."""
    pytest.importorskip("triton", reason="triton is not installed")
    from fasti3d.ops.conv3d_bn_relu import launch

    def pack(
        weight: Tensor, bias: Tensor, stride: Any, *, relu: bool, dtype: torch.dtype, padding: Any = None
    ) -> PackedConv3d:
        kernel = (weight.shape[2], weight.shape[3], weight.shape[4])
        return TritonConv3d.of(weight, bias, conv3d.Geometry(kernel, stride, padding, relu), dtype)

    def fold(x: Tensor, kernel: Any, stride: Any, pad: Any, out: Tensor) -> tuple[Tensor, Any]:
        return torch.zeros(x.shape[0], 96, 8, 100, 97, dtype=x.dtype), (4, 4, 1)

    monkeypatch.setattr(network, "TRUNK", NARROW)
    monkeypatch.setattr(network, "FEATURE_CHANNELS", 96)
    monkeypatch.setattr(PackedConv3d, "pack", pack)
    monkeypatch.setattr(gpu, "why_not", lambda device, dtype: None)
    monkeypatch.setattr(tables, "gpu", lambda device: H200)
    for module in (gpu, launch):
        monkeypatch.setattr(module, "gpu_traits", lambda device: gpu.GpuTraits(*H200[1:]))
    monkeypatch.setattr(launch, "_fold", fold)
    monkeypatch.setenv("FASTI3D_HOME", str(tmp_path))


def second_is_best(work: Any, found: Sequence[Candidate]) -> list[float | str]:
    return [2e-4, 1e-4, *("wrong by 3, where values are up to 4" for _ in found[2:])]


def slabs_are_best(work: Any, found: Sequence[Candidate]) -> list[float | str]:
    """Where they are a candidate."""
    times = second_is_best(work, found)
    return [*times[:-1], 5e-5] if isinstance(found[-1].config, slabs.Config) else times


def run(shape: Sequence[int] = (1, 3, 9, 193, 193), measure: tune.Measure = second_is_best) -> list[Result]:
    return list(tune.tune([shape], torch.float16, CPU, measure))


@pytest.fixture
def slab_weights(h200: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions with a window have both forms."""
    by_taps = PackedConv3d.pack

    def pack(weight: Tensor, bias: Tensor, stride: Any, **options: Any) -> PackedConv3d:
        its = by_taps(weight, bias, stride, **options)
        if its.geometry.pointwise:
            return its
        return SlabConv3d(its.weight, its.bias, its.out_channels, its.geometry, torch.empty(0))

    monkeypatch.setattr(PackedConv3d, "pack", pack)


def test_slabs_are_a_candidate_and_the_table_keeps_them(slab_weights: None, tmp_path: Path) -> None:
    """Of the convolutions with a window; the problems are Triton's, whichever form is the faster."""
    results = run(measure=slabs_are_best)
    path = tmp_path / "table.json"
    path.write_text(tune.to_table(results, H200, torch.float16, path).dumps())
    used = tables.Tuned(((path, tables.read(path, H200)),))
    over_slabs = set()
    for result in results:
        *others, last = result.trials
        assert used.get(result.problem) == others[1].config == candidates(result.problem)[1]
        if isinstance(last.config, slabs.Config):
            assert used.over_slabs(result.problem, last.config) is True
            assert tuple(trial.config for trial in others) == candidates(result.problem)
            over_slabs.add(result.layer)
    assert {"Conv3d_1a_7x7", "Conv3d_2c_3x3", "Mixed_3b.b1b"} <= over_slabs
    assert not any("+" in layer or "1x1" in layer for layer in over_slabs)


def test_every_convolution_is_measured_once(h200: None) -> None:
    seen: list[Problem] = []

    def measure(work: Any, found: Sequence[Candidate]) -> list[float | str]:
        assert tuple(one.config for one in found) == candidates(work.problem)
        seen.append(work.problem)
        return second_is_best(work, found)

    results = run(measure=measure)
    assert [result.problem for result in results] == seen
    assert len(set(seen)) == len(seen)
    layers = [result.layer for result in results]
    assert layers[:3] == ["Conv3d_1a_7x7", "Conv3d_2b_1x1", "Conv3d_2c_3x3"]
    assert {
        "Mixed_3b.b0 + Mixed_3b.b1a + Mixed_3b.b2a",
        "Mixed_3b.b1b",
        "Mixed_5b.b0 + Mixed_5b.b1a + Mixed_5b.b2a",
    } <= set(layers)
    by_layer = {result.layer: result for result in results}
    conv = by_layer["Conv3d_2c_3x3"]
    assert conv.problem == Problem(1, 24, 24, (5, 49, 49), (3, 3, 3), (1, 1, 1), *H200[1:])
    assert conv.flop == 2 * 24 * 24 * 27 * 5 * 49 * 49
    assert by_layer["Conv3d_1a_7x7"].flop == 2 * 24 * 3 * 343 * 5 * 97 * 97
    assert by_layer["Conv3d_2b_1x1"].problem.size == (1, 1, 5 * 49 * 49)


def test_clips_are_laid_out_as_the_plan_has_them() -> None:
    wide = torch.zeros(2, 3, 4, 5, 48, dtype=torch.float16).permute(0, 4, 1, 2, 3)
    for x in (wide, wide[:, 8:24], wide[:, 3:40], wide[:1, :, 1:2], wide[..., ::2]):
        geometry = Geometry.of(x)
        filled = geometry.fill(x)
        assert Geometry.of(filled) == geometry
        assert filled.double().std() > 0.5


@pytest.mark.parametrize(
    ("kernel", "stride", "start"),
    [
        ((3, 3, 3), (1, 1, 1), 0),
        ((3, 1, 2), (2, 1, 2), 0),
        ((1, 1, 1), (1, 1, 1), 0),
        ((3, 3, 3), (1, 1, 1), 2),
    ],
)
def test_the_reference_is_the_convolution(
    kernel: tuple[int, int, int], stride: tuple[int, int, int], start: int, h200: None
) -> None:
    from fasti3d.ops.conv3d_bn_relu import launch

    generator = torch.Generator().manual_seed(0)
    x = (
        torch.randn(2, 16, 6, 5, 7, generator=generator)
        .half()
        .contiguous(memory_format=torch.channels_last_3d)
    )
    weight = (torch.randn(24, 16, *kernel, generator=generator) / 10).half()
    bias = torch.randn(24, generator=generator)
    exact = F.conv3d(pad_same(x.double(), kernel, stride), weight.double(), bias.double(), stride)
    exact = exact[:, :, start : start + 3]
    for relu in (False, True):
        out = torch.empty_like(exact, dtype=torch.float16, memory_format=torch.channels_last_3d)
        packed = pack_triton(weight, stride, x.dtype)
        work = launch.prepare(x, packed, bias, conv3d.Geometry(kernel, stride, None, relu), out, start)
        y = tune.reference(work)
        assert y.dtype == torch.float32
        work.out.copy_(y)  # which may see out as one long row
        assert_close("conv3d", out, exact.relu() if relu else exact, scale=exact.abs().max().item())


def test_what_counts_as_wrong() -> None:
    exact, its = torch.tensor([[1.0, -8.0, 3.001]]), PROBLEM

    def found(out: Tensor) -> str:
        whole = fault(SimpleNamespace(out=out, second=None, problem=its), exact)  # type: ignore[arg-type]
        halves = SimpleNamespace(out=out[:, :1], second=out[:, 1:], problem=its)
        assert fault(halves, exact) == whole  # type: ignore[arg-type]
        return str(whole)

    assert found(exact.half()) == found(exact.bfloat16()) == "None"
    assert "wrong by 0.0" in found(exact.half() + torch.tensor([0.02, 0, 0]).half())
    assert "wrong by nan" in found(torch.tensor([[1.0, -8.0, torch.nan]]).half())
    rounded = exact.half().float()
    its = replace(PROBLEM, precision=Precision.TF32)
    assert found(rounded) == "None"
    its = replace(PROBLEM, precision=Precision.TF32X3)
    assert found(exact) == "None"
    assert "wrong by 0.0" in found(rounded), "as one product in place of three"


A, B, C = candidates(PROBLEM)[:3]
TILE = slabs.Config(208, 1, 2, True, (1, 7, 28), 2, 2, 8)


@pytest.mark.parametrize(
    ("found", "entry"),
    [
        ((2e-4, 1e-4, 3e-4), Entry(B, 1e-4, 2e-4)),
        ((1.01e-4, 1e-4, 3e-4), Entry(A, 1.01e-4, 1.01e-4)),
        ((2e-4, "wrong", 3e-4), Entry(A, 2e-4, 2e-4)),
        (("wrong", 3e-4, 1e-4), Entry(C, 1e-4, 1e-4)),
        (("wrong", "wrong", "wrong"), None),
    ],
)
def test_selection(found: Sequence[float | str], entry: Entry | None) -> None:
    assert select(tuple(map(Trial, (A, B, C), found))) == entry
    for slab, seconds in ((1e-6, 1e-6), (1.0, 1.0), ("wrong", None)):
        both = select(tuple(map(Trial, (A, B, C, TILE), (*found, slab))))
        assert both == (entry and entry._replace(slab=Slab(TILE, seconds)))


@pytest.mark.parametrize(("slab", "order"), [(5e-5, [1, 0]), (4e-4, [0, 1]), (None, [0])])
def test_what_is_right_of_both_forms(slab: float | None, order: list[int]) -> None:
    entry = Entry(B, 1e-4, 2e-4, Slab(TILE, slab))
    found = Result("a", PROBLEM, 10**9, (), entry).right
    assert [(B.short, TILE.short).index(it.short) for it in found] == order
    by_taps = found[order.index(0)]
    assert by_taps[1:] == pytest.approx((100, 10, 2))
    if slab:
        assert found[order.index(1)][1:] == pytest.approx((1e6 * slab, 1e-3 / slab, 2e-4 / slab))


def result(problem: Problem = PROBLEM) -> Result:
    return Result("a", problem, 1, (), Entry(candidates(problem)[1], 1e-4, 2e-4))


def test_the_table_keeps_what_was_measured_before_with_the_same_releases(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    first, second = result(), result(replace(PROBLEM, batch=1))
    path.write_text(tune.to_table([first], H200, torch.float16, path).dumps())
    both = tune.to_table([second], H200, torch.bfloat16, path)
    assert both.entries.keys() == {first.problem, second.problem}
    assert (both.recorded["dtype"], both.recorded["torch"]) == ("bfloat16", torch.__version__)
    path.write_text(path.read_text().replace(f'"torch": "{torch.__version__}"', '"torch": "2.0"'))
    assert tune.to_table([second], H200, torch.float16, path).entries.keys() == {second.problem}
    path.write_text("no table")
    assert tune.to_table([second], H200, torch.float16, path).entries.keys() == {second.problem}


@pytest.fixture
def verb(h200: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The verb, with a GPU and a measure."""
    monkeypatch.setattr("fasti3d.runtime.devices.resolve_device", lambda name: torch.device("cuda", 0))
    monkeypatch.setattr(tune, "Meter", lambda device: second_is_best)
    whole = tune.tune
    monkeypatch.setattr(tune, "tune", lambda shapes, dtype, device, progress: whole(shapes, dtype, CPU))


def invoke(*arguments: object) -> tuple[int, str, str]:
    done = CliRunner(env={"COLUMNS": "300", "NO_COLOR": "1"}).invoke(app, ["tune", *map(str, arguments)])
    return done.exit_code, done.stdout, done.stderr


def test_verb(verb: None) -> None:
    code, out, err = invoke("--shape", SMALLEST)
    path = cache_dir() / "tuned" / "nvidia-h200.json"
    assert code == 0
    lines = out.splitlines()
    assert lines[0].split() == ["layer", "writes", "configuration", "us", "TFLOP/s", "gain"]
    line = next(line for line in lines if line.startswith("Conv3d_2c_3x3"))
    assert line.split()[1] == "1x24x5x49x49"
    assert line.split()[-3:] == ["100.0", "4", "2.00x"]
    assert "warning: Conv3d_2c_3x3, " in err
    assert "wrong by 3, where values are up to 4" in err
    table = tables.read(path, H200)
    assert lines[-1] == f"{len(table.entries)} configurations in {path}"
    problem = Problem(1, 24, 24, (5, 49, 49), (3, 3, 3), (1, 1, 1), *H200[1:])
    assert tables.find(H200).get(problem) == candidates(problem)[1] != choose(problem)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), torch.OutOfMemoryError("CUDA out of memory")])
def test_what_breaks_off_keeps_what_was_measured(
    error: BaseException, verb: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    count = 0

    def measure(work: Any, found: Sequence[Candidate]) -> list[float | str]:
        nonlocal count
        count += 1
        if count == 4:
            raise error
        return second_is_best(work, found)

    monkeypatch.setattr(tune, "Meter", lambda device: measure)
    path = tmp_path / "new" / "table.json"
    code, out, err = invoke("--shape", SMALLEST, "--out", path)
    assert code == (130 if isinstance(error, KeyboardInterrupt) else 1)
    assert f"3 configurations in {path}" in out
    assert ("out of memory" in err) == (code == 1)
    assert len(json.loads(path.read_text())["entries"]) == 3
    count = 3
    code, out, _ = invoke("--shape", SMALLEST, "--out", tmp_path / "none.json")
    assert code != 0
    assert "nothing was measured, and nothing written" in out
    assert not (tmp_path / "none.json").exists()


def test_the_verb_lists_both_forms(verb: None, slab_weights: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "Meter", lambda device: slabs_are_best)
    code, out, _ = invoke("--shape", SMALLEST)
    assert code == 0
    lines = out.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("Conv3d_2c_3x3"))
    slab, by_taps = lines[first : first + 2]
    assert slab.split()[2] == "slab"
    assert slab.split()[-3::2] == ["50.0", "4.00x"]
    assert by_taps.split()[-3::2] == ["100.0", "2.00x"]


def test_warming_only_compiles(verb: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "warm", lambda shapes, dtype, device: tune.Warmed(27, 20, 3.14))
    code, out, _ = invoke("--warm", "--shape", SMALLEST)
    assert (code, out) == (0, "20 kernels compiled in 3.1 s, 7 were there\n")
    assert not (cache_dir() / "tuned").exists()


def test_what_is_warmed_is_what_clips_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Floats and bytes, of every kind of kernel; the rest is of all."""
    pytest.importorskip("triton", reason="triton is not installed")
    from benchmarks import stub_gpu

    monkeypatch.setattr(network, "TRUNK", NARROW)
    monkeypatch.setattr(network, "FEATURE_CHANNELS", 96)
    monkeypatch.setattr(gpu, "why_not", lambda device, dtype: None)
    asked: list[builds.Build] = []
    monkeypatch.setattr(builds, "compile_beside", lambda found: asked.extend(found) or len(found))
    with stub_gpu.h200() as driver:
        done = tune.warm([(1, 3, 9, 193, 193)], torch.float16, CPU)
    assert driver.launched == []
    assert (done.kernels, done.compiled) == (len(asked), len(asked))
    names = [build.name for build in asked]
    assert sum('"*u8"' in build.data for build in asked) == 1
    assert set(names) == {
        "_conv3d_fold_kernel",
        "_conv3d_pointer_kernel",
        "_conv3d_descriptor_kernel",
        "_max_pool3d_same_kernel",
        "_average_head_kernel",
    }


@pytest.mark.parametrize(
    ("options", "said", "code"),
    [
        (["--device", "cpu"], "no GPU to tune for", 1),
        (["--device", "tpu"], "--device", 2),
        (["--dtype", "float64"], "must be one of float16, bfloat16, float32, got 'float64'", 2),
        (["--shape", "1,3,x"], "five whole numbers", 2),
        (["--shape", "1,3,-1,224,224"], "must not be below 0", 2),
    ],
)
def test_wrong_options(options: list[str], said: str, code: int) -> None:
    found, out, err = invoke(*options)
    assert (found, out) == (code, "")
    assert said in err


@pytest.mark.skipif(torch.cuda.is_available(), reason="it would run")
def test_without_a_gpu_it_says_so_without_triton() -> None:
    code, _, err = invoke()
    assert code == 1
    assert err.count("\n") == 1


def test_shapes_the_network_does_not_take(verb: None) -> None:
    for shape, said in (("1,3,8,224,224", "at least 9 frames"), ("1,4,64,224,224", "3 channels")):
        code, _, err = invoke("--shape", shape)
        assert code == 1
        assert said in err


def test_gpus_without_kernels() -> None:
    with pytest.raises(
        ValueError, match=r"nothing to tune for torch\.float16 on cpu: there are no fused kernels"
    ):
        tune.tune([(1, 3, 64, 224, 224)], torch.float16, CPU)


def test_the_table_of_the_gpu_check_is_the_commands(
    h200: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Shape by shape, into the place where it is looked for."""
    asked: list[int] = []

    def measured(shapes: Sequence[Sequence[int]], dtype: torch.dtype, device: torch.device) -> Any:
        asked.append(shapes[0][0])
        return tune.tune(shapes, dtype, device, second_is_best)

    monkeypatch.setattr(tune_table, "tune", measured)
    monkeypatch.setattr(tune_table, "gpu", lambda device: H200)
    path = tables.user_path(H200)
    assert path is not None
    tune_table.measure([(clips, 3, 9, 193, 193) for clips in (1, 2)], CPU, path)
    assert asked == [1, 2]
    (found,) = tables.find(H200).tables
    assert found[0] == path == tmp_path / "tuned" / "nvidia-h200.json"
    batches = {problem.batch for problem in found[1].entries}
    assert batches >= {1, 2}
    said = capsys.readouterr().out
    assert "100.0 us" in said
    assert "WRONG Conv3d_2c_3x3" in said
