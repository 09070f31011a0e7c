"""The I3D users import: its fused path against the plain network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from i3d_making import SMALL, WITH_HEAD, assert_maps_close, make_i3d, ordinary, random_clip
from tolerances import assert_close
from torch import Tensor, nn

from fasti3d import I3D, network, reference
from fasti3d.engine import steps
from fasti3d.ops.conv3d_bn_relu import packed
from fasti3d.runtime import extension

TRUNK = tuple(network.TRUNK)
FEATURES = "Mixed_5c"


@pytest.mark.parametrize(
    "shape",
    [
        (1, 3, 9, 33, 40),
        (2, 3, 16, 47, 32),
        (3, 3, 11, 32, 65),
        (1, 3, 79, 33, 34),
        (1, 3, 64, 48, 48),
        (2, 3, 1, 1, 1),
        (1, 3, 2, 7, 100),
    ],
)
def test_every_map_of_the_trunk(model: I3D, runs: list[torch.dtype], shape: tuple[int, ...]) -> None:
    x = random_clip(*shape)
    with torch.no_grad():
        actual = model.forward_endpoints(x, TRUNK)
    assert runs == [torch.float32]
    assert_maps_close(actual, ordinary(model, x, *TRUNK))


@pytest.mark.parametrize("in_channels", [1, 2, 5, 17, 32])
def test_streams_of_other_channel_counts(runs: list[torch.dtype], in_channels: int) -> None:
    model = make_i3d(in_channels=in_channels)
    x = random_clip(2, in_channels, 10, 33, 35)
    with torch.no_grad():
        actual = model.forward_endpoints(x, TRUNK)
    assert runs
    assert_maps_close(actual, ordinary(model, x, *TRUNK))


@pytest.mark.parametrize("shape", [WITH_HEAD, (2, 3, 17, 193, 200)])
def test_head(model: I3D, runs: list[torch.dtype], shape: tuple[int, ...]) -> None:
    x = random_clip(*shape)
    names = (FEATURES, "Logits", "Predictions")
    expected = ordinary(model, x, *names)
    with torch.inference_mode():
        actual = model.forward_endpoints(x, names)
        assert_maps_close(actual, expected)
        assert_close("i3d", model(x), expected["Logits"])
        assert_close(
            "i3d", model.extract_features(x), reference.head_pool(expected[FEATURES]).mean(dim=(3, 4))
        )
    assert len(runs) == 3
    assert actual["Predictions"].sum(dim=1) == pytest.approx(1, abs=1e-5)


def test_features_and_logits_come_from_one_pass(
    model: I3D, runs: list[torch.dtype], monkeypatch: pytest.MonkeyPatch
) -> None:
    convolved: list[int] = []
    run = packed.PackedConv3d.__call__

    def counted(self: packed.PackedConv3d, x: Tensor, *arguments: Any) -> Tensor:
        convolved[-1] += not x.is_meta
        return run(self, x, *arguments)

    monkeypatch.setattr(packed.PackedConv3d, "__call__", counted)
    x = random_clip(*WITH_HEAD)
    with torch.no_grad():
        found = []
        for names in (("Logits",), ("Mixed_5c", "Logits", "Features", "Predictions"), ("Features",)):
            convolved.append(0)
            found.append(model.forward_endpoints(x, names))
        convolved.append(0)
        features = model.extract_features(x)
    assert len(runs) == 4
    assert len(set(convolved)) == 1
    assert convolved[0] >= (0 if extension.CORE is None else 3 + 9 * 6)
    assert list(found[1]) == ["Mixed_5c", "Features", "Logits", "Predictions"]
    assert torch.equal(found[0]["Logits"], found[1]["Logits"])
    assert torch.equal(found[1]["Features"], features)
    assert torch.equal(found[2]["Features"], features)
    classified = model.logits(features[..., None, None])[..., 0, 0].mean(dim=2)
    assert_close("i3d", found[0]["Logits"], classified)


@pytest.mark.parametrize("fused", [True, False])
def test_features_without_a_classifier(model: I3D, fused: bool) -> None:
    headless = make_i3d()
    del headless.logits
    x = random_clip(*WITH_HEAD)
    with torch.no_grad():
        expected = model.extract_features(x)
    with torch.set_grad_enabled(not fused):
        assert_close("i3d", headless.extract_features(x), expected)
        with pytest.raises(ValueError, match=r"no classifier: ask for Features"):
            headless(x)


def test_endpoints_one_at_a_time(model: I3D) -> None:
    x = random_clip(*SMALL)
    with torch.no_grad():
        together = model.forward_endpoints(x, TRUNK)
        for name in TRUNK:
            alone = model.forward_endpoints(x, [name])
            assert list(alone) == [name]
            assert torch.equal(alone[name], together[name])
        assert model.forward_endpoints(x, []) == {}
        assert torch.equal(model.forward_features(x), together[FEATURES])


def test_endpoints_come_in_order_of_computation(model: I3D) -> None:
    names = (FEATURES, "Conv3d_1a_7x7", "Mixed_4b", "Mixed_4b")
    with torch.no_grad():
        assert list(model.forward_endpoints(random_clip(*SMALL), iter(names))) == [
            "Conv3d_1a_7x7",
            "Mixed_4b",
            FEATURES,
        ]


def test_long_clips_run_piece_by_piece(model: I3D, monkeypatch: pytest.MonkeyPatch) -> None:
    x = random_clip(2, 3, 37, 33, 34)
    with torch.no_grad():
        whole = model.forward_endpoints(x, TRUNK)
        for piece_bytes in (1, 1 << 20):
            monkeypatch.setattr(steps, "_PIECE_BYTES", piece_bytes)
            assert torch.equal(model.forward_features(x), whole[FEATURES])
            pool = model.forward_endpoints(x, ["MaxPool3d_2a_3x3"])["MaxPool3d_2a_3x3"]
            assert torch.equal(pool, whole["MaxPool3d_2a_3x3"])
    assert_maps_close(whole, ordinary(model, x, *TRUNK))


def test_the_reference_route_convolves_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a convolution has no kernel, as without the extension, nothing is done twice."""
    monkeypatch.setattr(packed, "has_kernel", lambda *_, **__: False)
    monkeypatch.setattr(steps, "_PIECE_BYTES", 1)
    model, x = make_i3d(), random_clip(1, 3, 37, 33, 34)
    calls = []
    convolve = packed.conv3d_bn_relu_reference
    monkeypatch.setattr(
        packed, "conv3d_bn_relu_reference", lambda *args: calls.append(args[1].shape) or convolve(*args)
    )
    with torch.no_grad():
        y = model.forward_endpoints(x, ["Conv3d_2c_3x3"])["Conv3d_2c_3x3"]
    assert len(calls) == 3
    assert_close("i3d", y, ordinary(model, x, "Conv3d_2c_3x3")["Conv3d_2c_3x3"])


def test_layouts_of_the_clip(model: I3D, runs: list[torch.dtype]) -> None:
    wide = random_clip(2, 5, 12, 40, 44)
    x = wide[:, 1:4, 2:11, 3:36, ::1].contiguous()
    frames = x.permute(0, 2, 3, 4, 1).contiguous()
    layouts = {
        "channels_last_3d": x.contiguous(memory_format=torch.channels_last_3d),
        "from NTHWC": frames.permute(0, 4, 1, 2, 3),
        "from NTCHW": x.transpose(1, 2).contiguous().transpose(1, 2),
        "slice of a larger clip": wide[:, 1:4, 2:11, 3:36],
        "every other row of a larger clip": x.repeat_interleave(2, dim=3)[:, :, :, ::2],
        "not aligned": torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape),
    }
    with torch.no_grad():
        expected = model.forward_features(x)
        for name, clip in layouts.items():
            before = clip.clone()
            assert torch.equal(model.forward_features(clip), expected), name
            assert torch.equal(clip, before), name
        still = x[:, :, :1].expand(-1, -1, 9, -1, -1)
        assert torch.equal(model.forward_features(still), model.forward_features(still.contiguous()))
    assert len(runs) == len(layouts) + 3
    assert_close("i3d", expected, ordinary(model, x, FEATURES)[FEATURES])


@pytest.mark.isa
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(runs: list[torch.dtype], dtype: torch.dtype) -> None:
    model = make_i3d().to(dtype)
    assert model.Mixed_3b.b0.bn.running_var.dtype == torch.float32
    widened = make_i3d()
    with torch.no_grad():
        for part in widened.modules():
            if isinstance(part, nn.Conv3d):
                for p in part.parameters():
                    p.copy_(p.to(dtype))
    x = random_clip(*WITH_HEAD).to(dtype)
    with torch.no_grad():
        actual = model.forward_endpoints(x, network.OUTPUTS)
    assert len(runs) == 1
    assert all(value.dtype == dtype for value in actual.values())
    assert_maps_close(actual, ordinary(widened, x.float(), *network.OUTPUTS))


@pytest.mark.isa
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(model: I3D, runs: list[torch.dtype], dtype: torch.dtype) -> None:
    x = random_clip(*SMALL)
    with torch.no_grad(), torch.autocast("cpu", dtype=dtype):
        actual = model.forward_endpoints(x, TRUNK)
        usual = reference.I3D.forward_endpoints(model, x, TRUNK)
        assert torch.is_autocast_enabled("cpu")
    assert len(runs) == 1
    # Plain pools under autocast widen to float32; the fused ones have no need to.
    assert {value.dtype for value in actual.values()} == {dtype}
    assert all(usual[name].dtype == dtype for name in TRUNK if not name.startswith("MaxPool"))
    assert_maps_close(actual, ordinary(model, x, *TRUNK))


@pytest.mark.isa
def test_a_plan_made_under_autocast_or_inference_mode_serves_outside(runs: list[torch.dtype]) -> None:
    model = make_i3d()
    x = random_clip(*SMALL)
    expected = ordinary(model, x, FEATURES)[FEATURES]
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        model.forward_features(x)
    for p in model.parameters():
        p.requires_grad_(False)
    y = model.forward_features(x)
    assert not y.is_inference()
    assert len(runs) == 2
    assert_close("i3d", y, expected)


def test_runs_are_repeatable(model: I3D) -> None:
    x = random_clip(2, 3, 17, 50, 50)
    with torch.no_grad():
        first = model.forward_features(x)
        again = model.forward_features(x)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            alone = model.forward_features(x)
        finally:
            torch.set_num_threads(threads)
    assert torch.equal(first, again)
    assert torch.equal(first, alone)


def test_results_are_not_overwritten_by_the_next_run(model: I3D) -> None:
    with torch.no_grad():
        first = model.forward_endpoints(random_clip(*SMALL), TRUNK)
        kept = {name: value.clone() for name, value in first.items()}
        model.forward_endpoints(random_clip(*SMALL, seed=1), TRUNK)
    assert all(torch.equal(first[name], kept[name]) for name in TRUNK)


def test_frozen_weights_need_no_no_grad(runs: list[torch.dtype]) -> None:
    model = make_i3d().requires_grad_(False)
    y = model.forward_features(random_clip(*SMALL))
    assert runs
    assert not y.requires_grad


def test_channels_last_weights_run_fused(runs: list[torch.dtype]) -> None:
    model = make_i3d().to(memory_format=torch.channels_last_3d)
    x = random_clip(*SMALL)
    with torch.no_grad():
        y = model.forward_features(x)
        assert_close("i3d", y, ordinary(model, x, FEATURES)[FEATURES])
        before = y
        model.Mixed_3b.b1b.conv3d.weight.data.mul_(1.5)
        y = model.forward_features(x)
        assert_close("i3d", y, ordinary(model, x, FEATURES)[FEATURES])
    assert runs == [torch.float32] * 2
    assert not torch.equal(y, before)


def test_sync_batch_norm_runs_fused(runs: list[torch.dtype]) -> None:
    model = nn.SyncBatchNorm.convert_sync_batchnorm(make_i3d())
    x = random_clip(*SMALL)
    with torch.no_grad():
        y = model.eval().forward_features(x)
    assert runs
    assert_close("i3d", y, ordinary(make_i3d(), x, FEATURES)[FEATURES])


SCRIPT = """
import json, sys
if sys.argv[1] == "none":
    sys.modules["fasti3d._C"] = None  # as if it had not been built
import torch
from fasti3d.runtime import extension
from fasti3d.runtime.route import route
from i3d_making import assert_maps_close, make_i3d, ordinary, random_clip, SMALL
from fasti3d.network import TRUNK
from tolerances import error
model, x = make_i3d(), random_clip(*SMALL)
with torch.no_grad():
    actual = model.forward_endpoints(x, TRUNK)
expected = ordinary(model, x, *TRUNK)
model.Mixed_3b.b1b.conv3d.weight.data.neg_()
with torch.no_grad():
    edited = model.forward_endpoints(x, ["Mixed_3c"])
print(json.dumps({
    "isa": extension.instruction_set(),
    "path": route(torch.device("cpu"), torch.float32).path,
    "fused": model._plan is not None,
    "error": max(error(actual[n], expected[n]) for n in TRUNK),
    "stale": error(edited["Mixed_3c"], ordinary(model, x, "Mixed_3c")["Mixed_3c"]),
}))
"""


@pytest.mark.parametrize("build", ["none", "baseline", "avx2"])
def test_other_builds_and_machines(build: str) -> None:
    """Without the extension, and with the kernels of older CPUs."""
    if build != "none" and extension.CORE is None:
        pytest.skip("the extension was not built")
    if build == "avx2" and extension.CORE.isa() == "baseline":
        pytest.skip("this CPU, or FASTI3D_ISA, offers no avx2")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    if build != "none":
        env["FASTI3D_ISA"] = build
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, build], capture_output=True, text=True, env=env, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["isa"] == (None if build == "none" else build)
    assert found["path"] == ("reference" if build == "none" else "fused-cpu")
    assert found["fused"]
    assert found["error"] < 2e-5
    assert found["stale"] < 2e-5
