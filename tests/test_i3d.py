"""The I3D users import: its fused path against the plain network, and when it must not be taken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from i3d_making import SMALL, WITH_HEAD, make_i3d, make_warm_i3d, ordinary, random_clip, randomise
from tolerances import assert_close
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrize, prune
from torch.utils.flop_counter import FlopCounterMode

from fasti3d import I3D, extension, network, reference, steps
from fasti3d.ops.conv3d_bn_relu import op as conv_op
from fasti3d.plan import Plan

TRUNK = tuple(network.TRUNK)
FEATURES = "Mixed_5c"


@pytest.fixture(scope="module")
def model() -> I3D:
    """One RGB network that no test changes."""
    return make_i3d()


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[torch.dtype]:
    """The compute dtype of every fused run."""
    seen: list[torch.dtype] = []
    run = Plan.run

    def recorded(self: Plan, *args: Any) -> dict[str, Tensor]:
        seen.append(self.dtype)
        return run(self, *args)

    monkeypatch.setattr(Plan, "run", recorded)
    return seen


def assert_maps_close(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(actual) == list(expected)
    for name, value in actual.items():
        assert_close("i3d", value, expected[name])


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
    """Where a convolution has no kernel, as in bfloat16 on CPUs with AMX, nothing is done twice."""
    monkeypatch.setattr(conv_op, "has_kernel", lambda *_: False)
    monkeypatch.setattr(steps, "_PIECE_BYTES", 1)
    model, x = make_i3d(), random_clip(1, 3, 37, 33, 34)
    calls = []
    convolve = conv_op.conv3d_bn_relu_reference
    monkeypatch.setattr(
        conv_op, "conv3d_bn_relu_reference", lambda *args: calls.append(args[1].shape) or convolve(*args)
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
        actual = model.forward_endpoints(x, network.ENDPOINTS)
    assert len(runs) == 1
    assert all(value.dtype == dtype for value in actual.values())
    assert_maps_close(actual, ordinary(widened, x.float(), *network.ENDPOINTS))


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
from fasti3d import extension
from fasti3d.plan import route
from i3d_making import make_i3d, ordinary, random_clip, SMALL
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


# What makes the ordinary path run.


def assert_ordinary(model: I3D, runs: list[torch.dtype], call: Callable[[Tensor], Tensor]) -> None:
    x = random_clip(*SMALL)
    expected = ordinary(model, x, FEATURES)[FEATURES]
    actual = call(x)
    assert runs == []
    assert torch.equal(actual, expected)


def test_gradients_are_those_of_the_plain_network(runs: list[torch.dtype]) -> None:
    x = random_clip(*SMALL)
    gradients = []
    for kind in (I3D, reference.I3D):
        net = kind(7)
        randomise(net)
        clip = x.clone().requires_grad_()
        net.eval().forward_endpoints(clip, ["Mixed_4b"])["Mixed_4b"].square().mean().backward()
        gradients.append([clip.grad, *(p.grad for p in net.parameters() if p.grad is not None)])
    assert runs == []
    assert len(gradients[0]) > 40
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_gradients_of_the_clip_alone(model: I3D, runs: list[torch.dtype]) -> None:
    frozen = make_i3d().requires_grad_(False)
    x = random_clip(*SMALL).requires_grad_()
    frozen.forward_features(x).sum().backward()
    assert runs == []
    assert x.grad.abs().sum() > 0


def test_a_single_trainable_tensor_is_enough(runs: list[torch.dtype]) -> None:
    model = make_i3d().requires_grad_(False)
    model.Mixed_5c.b3b.bn.bias.requires_grad_()
    model.forward_features(random_clip(*SMALL)).sum().backward()
    assert runs == []
    assert model.Mixed_5c.b3b.bn.bias.grad is not None


def test_training_mode(runs: list[torch.dtype]) -> None:
    model = make_i3d().train()
    before = model.Mixed_3b.b0.bn.running_mean.clone()
    with torch.no_grad():
        model.forward_features(random_clip(*SMALL))
    assert runs == []
    assert not torch.equal(model.Mixed_3b.b0.bn.running_mean, before)


def test_one_part_in_training_mode(runs: list[torch.dtype]) -> None:
    model = make_i3d()
    model.Mixed_4b.b0.bn.train()
    with torch.no_grad():
        model.forward_features(random_clip(*SMALL))
    assert runs == []


def test_hooks_on_parts_fire(runs: list[torch.dtype]) -> None:
    model = make_i3d()
    x = random_clip(*SMALL)
    fired: list[str] = []
    parts: dict[str, nn.Module] = {
        "unit": model.Conv3d_2b_1x1,
        "block": model.Mixed_4c,
        "pool": model.MaxPool3d_4a_3x3,
        "inner pool": model.Mixed_3b.b3a,
        "conv": model.Mixed_3b.b1b.conv3d,
        "bn": model.Mixed_5c.b0.bn,
    }
    for name, part in parts.items():
        for register in (part.register_forward_hook, part.register_forward_pre_hook):
            handle = register(lambda *_, name=name: fired.append(name))
            with torch.no_grad():
                y = model.forward_features(x)
            handle.remove()
            assert fired == [name]
            fired.clear()
            assert runs == [], name
    with torch.no_grad():
        assert_close("i3d", model.forward_features(x), y)
    assert runs, "removing the hooks brings the fused path back"


def test_a_hook_may_change_what_flows(runs: list[torch.dtype]) -> None:
    model = make_i3d()
    model.Mixed_3b.b0.register_forward_hook(lambda *args: args[-1] * 0)
    with torch.no_grad():
        y = model.forward_endpoints(random_clip(*SMALL), ["Mixed_3b"])["Mixed_3b"]
    assert not y[:, : network.TRUNK["Mixed_3b"].b0].any()


def test_hooks_on_the_whole_model_keep_it_fused(runs: list[torch.dtype]) -> None:
    model = make_i3d()
    fired = []
    model.register_forward_pre_hook(lambda *_: fired.append("before"))
    model.register_forward_hook(lambda *_: fired.append("after"))
    with torch.no_grad():
        model(random_clip(*WITH_HEAD))
    assert fired == ["before", "after"]
    assert len(runs) == 1


def test_global_hooks_fire(model: I3D, runs: list[torch.dtype]) -> None:
    seen: list[nn.Module] = []
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: seen.append(module))
    try:
        with torch.no_grad():
            model.forward_features(random_clip(*SMALL))
    finally:
        handle.remove()
    assert model.Mixed_5c.b0.bn in seen
    assert runs == []


REPLACEMENTS: dict[str, Callable[[I3D], object]] = {
    "a pool by identity": lambda m: setattr(m, "MaxPool3d_2a_3x3", nn.Identity()),
    "the stem by a sequence": lambda m: setattr(m, "Conv3d_1a_7x7", nn.Sequential(m.Conv3d_1a_7x7)),
    "the classifier by identity": lambda m: setattr(m, "logits", nn.Identity()),
    "dropout by identity": lambda m: setattr(m, "dropout", nn.Identity()),
    "a unit by another module": lambda m: setattr(
        m, "Conv3d_2b_1x1", nn.Sequential(nn.Conv3d(64, 64, 1), nn.Tanh())
    ),
    "a batch norm by identity": lambda m: setattr(m.Mixed_3b.b0, "bn", nn.Identity()),
    "a batch norm by none": lambda m: setattr(m.Mixed_3b.b0, "bn", None),
    "a batch norm by none, folded into the convolution": lambda m: fold_and_drop(m.Conv3d_2b_1x1),
    "a batch norm without statistics": lambda m: setattr(
        m.Mixed_3b.b0, "bn", nn.BatchNorm3d(64, track_running_stats=False)
    ),
    "a batch norm without parameters": lambda m: setattr(
        m.Mixed_3b.b0, "bn", nn.BatchNorm3d(64, affine=False)
    ),
    "a convolution by a subclass": lambda m: setattr(
        m.Mixed_3b.b0, "conv3d", Doubled(192, 64, 1, bias=False)
    ),
    "a convolution by one with a bias": lambda m: setattr(m.Mixed_3b.b0, "conv3d", biased(192, 64)),
    "a convolution by a dilated one": lambda m: (
        setattr(m.Mixed_3b.b1b, "conv3d", nn.Conv3d(96, 128, 3, dilation=2, bias=False)),
        setattr(m.Mixed_3b.b1b, "kernel", (5, 5, 5)),
    ),
    "a convolution by one in groups": lambda m: setattr(
        m.Mixed_3b.b1b, "conv3d", nn.Conv3d(96, 128, 3, groups=32, bias=False)
    ),
    "the stem's step in time": lambda m: setattr(m.Conv3d_1a_7x7.conv3d, "stride", (1, 2, 2)),
    "the stem's step in time, padding too": lambda m: (
        setattr(m.Conv3d_1a_7x7.conv3d, "stride", (1, 2, 2)),
        setattr(m.Conv3d_1a_7x7, "stride", (1, 2, 2)),
    ),
    "the window of a pool inside a block": lambda m: setattr(m.Mixed_3b.b3a, "kernel", (5, 3, 3)),
    "the window of a pool": lambda m: setattr(m.MaxPool3d_2a_3x3, "kernel", (3, 3, 3)),
    "a forward of its own": lambda m: setattr(m.Mixed_3b.b0, "forward", lambda x: x[:, :64] * 2),
    "a parametrized weight": lambda m: parametrize.register_parametrization(
        m.Mixed_3b.b1b.conv3d, "weight", Halved()
    ),
    "a weight norm": lambda m: nn.utils.parametrizations.weight_norm(m.Conv3d_1a_7x7.conv3d),
    "a pruned weight": lambda m: prune.l1_unstructured(m.Mixed_3b.b1b.conv3d, "weight", 0.5),
}


class Doubled(nn.Conv3d):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Halved(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / 2


def biased(in_channels: int, out_channels: int) -> nn.Conv3d:
    conv = nn.Conv3d(in_channels, out_channels, 1)
    nn.init.ones_(conv.bias)
    return conv


def fold_and_drop(unit: Any) -> None:
    unit.conv3d = nn.utils.fuse_conv_bn_eval(unit.conv3d, unit.bn)
    unit.bn = None


@pytest.mark.parametrize("what", REPLACEMENTS)
def test_replaced_parts_are_obeyed(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_warm_i3d()
    x = random_clip(*SMALL)
    names = ("Conv3d_1a_7x7", "Mixed_3b", "Mixed_3c")
    with torch.no_grad():
        monkeypatch.setattr(steps, "_PIECE_BYTES", 1)
        REPLACEMENTS[what](model)
        model.eval()
        actual = model.forward_endpoints(x, names)
    assert_maps_close(actual, ordinary(model, x, *names))


def test_without_a_classifier_features_still_come(model: I3D) -> None:
    headless = make_i3d()
    del headless.logits
    x = random_clip(*SMALL)
    with torch.no_grad():
        assert torch.equal(headless.forward_features(x), model.forward_features(x))


def test_compiles_as_one_graph(model: I3D, runs: list[torch.dtype]) -> None:
    torch.compiler.reset()
    x = random_clip(*SMALL)
    compiled = torch.compile(model.forward_features, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        y = compiled(x)
    assert runs == []
    assert_close("i3d", y, ordinary(model, x, FEATURES)[FEATURES])


def test_exports(model: I3D, runs: list[torch.dtype]) -> None:
    x = random_clip(*WITH_HEAD)
    with torch.no_grad():
        program = torch.export.export(model, (x,))
        assert runs == []
        assert_close("i3d", program.module()(x), model(x))


def test_traces(model: I3D, runs: list[torch.dtype]) -> None:
    x = random_clip(*WITH_HEAD)
    with torch.no_grad():
        traced = torch.jit.trace(model, x, check_trace=False)
        assert runs == []
        assert_close("i3d", traced(x), model(x))


def test_function_transforms(model: I3D, runs: list[torch.dtype]) -> None:
    x = random_clip(3, *SMALL)
    with torch.no_grad():
        y = torch.func.vmap(model.forward_features)(x)
        assert runs == []
        assert_close("i3d", y[1], ordinary(model, x[1], FEATURES)[FEATURES])
        _, tangent = torch.func.jvp(model.forward_features, (x[0],), (torch.ones_like(x[0]),))
    assert tangent.abs().sum() > 0
    assert runs == []


def test_forward_mode_derivatives(model: I3D, runs: list[torch.dtype]) -> None:
    """Which no_grad does not switch off."""
    forward_ad = torch.autograd.forward_ad
    x = random_clip(*SMALL)
    with torch.no_grad(), forward_ad.dual_level():
        y = model.forward_features(forward_ad.make_dual(x, torch.ones_like(x)))
        assert forward_ad.unpack_dual(y).tangent is not None
    assert runs == []


def test_functional_call_uses_the_weights_it_is_given(model: I3D) -> None:
    other = make_i3d(seed=1)
    x = random_clip(*WITH_HEAD)
    weights = dict(other.named_parameters()) | dict(other.named_buffers())
    with torch.no_grad():
        own = model(x)
        assert_close("i3d", functional_call(model, weights, (x,)), ordinary(other, x, "Logits")["Logits"])
        assert torch.equal(model(x), own)
    y = functional_call(model, weights, (x,))
    assert y.requires_grad


def test_operation_counters_see_every_operation(model: I3D, runs: list[torch.dtype]) -> None:
    plain = reference.I3D(7).eval()
    x = random_clip(*SMALL)
    counts = []
    for net in (model, plain):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            net.forward_features(x)
        counts.append(counter.get_total_flops())
    assert runs == []
    assert counts[0] == counts[1] > 0


def test_meta_device(runs: list[torch.dtype]) -> None:
    with torch.device("meta"):
        model = I3D(7).eval()
        x = torch.empty(2, 3, 16, 224, 224)
    with torch.no_grad():
        assert model(x).shape == (2, 7)
        assert model.forward_features(x).shape == (2, 1024, 2, 7, 7)


def test_float64_runs_as_the_plain_network(runs: list[torch.dtype]) -> None:
    model = make_i3d().double()
    x = random_clip(*SMALL).double()
    with torch.no_grad():
        y = model.forward_endpoints(x, ["Mixed_3b"])["Mixed_3b"]
    assert runs == []
    assert y.dtype == torch.float64


def test_tensor_subclasses_run_as_the_plain_network(model: I3D, runs: list[torch.dtype]) -> None:
    class Clip(Tensor):
        pass

    with torch.no_grad():
        y = model.forward_features(random_clip(*SMALL).as_subclass(Clip))
    assert isinstance(y, Clip)
    assert runs == []


def test_gradient_checkpointing_changes_nothing(runs: list[torch.dtype]) -> None:
    x = random_clip(*SMALL)
    results = []
    for checkpointing in (False, True):
        model = make_i3d()
        model.gradient_checkpointing = checkpointing
        y = model.forward_endpoints(x, ["Mixed_4b"])["Mixed_4b"]
        y.square().mean().backward()
        results.append((y.detach(), model.Conv3d_1a_7x7.conv3d.weight.grad))
    assert runs == []
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_replacing_the_classifier_drops_its_labels() -> None:
    model = make_i3d()
    model.labels = tuple("abcdefg")
    model.replace_logits(3)
    assert model.labels is None
    assert model.num_classes == 3
