"""The training step of ``fasti3d.I3D`` against the ordinary network: gradients, statistics, memory, edges."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from i3d_making import narrowed, random_clip
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from fasti3d import I3D, network, reference
from fasti3d.train.step import walk

FEW = (2, 3, 5, 33, 36)  # frames, rows and columns of odd and even numbers at every pool


@pytest.fixture(scope="module", autouse=True)
def _narrow() -> Iterator[None]:
    with narrowed():
        yield


@pytest.fixture
def walks(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each walk of the training step recomputed."""
    seen: list[bool] = []

    def recorded(*args: object, recompute: bool) -> dict[str, Tensor]:
        seen.append(recompute)
        return walk(*args, recompute=recompute)  # type: ignore[arg-type]

    monkeypatch.setattr("fasti3d.i3d.walk", recorded)
    return seen


def make(in_channels: int = 3, dtype: torch.dtype = torch.float32, seed: int = 0) -> I3D:
    torch.manual_seed(seed)
    model = I3D(5, in_channels, dropout=0.0).to(dtype)
    with torch.no_grad():
        for norm in norms(model):
            norm.weight.uniform_(0.5, 1.5)
            norm.weight[::4] *= -1
            norm.bias.uniform_(-0.3, 0.5)
    return model


def norms(model: nn.Module) -> list[nn.BatchNorm3d]:
    return [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def plain_of(model: I3D, dtype: torch.dtype) -> reference.I3D:
    """The ordinary network with the same values."""
    assert model.in_channels is not None
    plain = reference.I3D(5, model.in_channels, dropout=0.0).to(dtype)
    plain.load_state_dict(model.state_dict())
    for mine, theirs in zip(norms(plain), norms(model), strict=True):
        mine.train(theirs.training)
    return plain


def loss_of(maps: dict[str, Tensor]) -> Tensor:
    """A sum in which every value of every map counts, the same for all networks."""
    total = torch.zeros((), dtype=torch.float64)
    for name, value in maps.items():
        generator = torch.Generator().manual_seed(len(name))
        weights = torch.rand(value.shape, generator=generator, dtype=torch.float64) - 0.5
        total = total + (value.double() * weights).sum() / value.numel() ** 0.5
    return total


def gradients(
    model: reference.I3D, x: Tensor, names: tuple[str, ...] = ("Mixed_3b", "Mixed_5c")
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of some endpoints, and all gradients."""
    model.zero_grad()
    loss = loss_of(model.forward_endpoints(x, names))
    loss.backward()
    return loss.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def distance(found: dict[str, Tensor], exact: dict[str, Tensor]) -> float:
    """Of all gradients together, relative to their norm."""
    assert found.keys() == exact.keys()
    apart = sum((found[n].double() - exact[n]).square().sum() for n in exact)
    return float((apart / sum(g.square().sum() for g in exact.values())).sqrt())


def statistics_apart(model: nn.Module, plain: nn.Module) -> float:
    pairs = zip(norms(model), norms(plain), strict=True)
    worst = 0.0
    for a, b in pairs:
        assert torch.equal(a.num_batches_tracked, b.num_batches_tracked)
        for mine, theirs in ((a.running_mean, b.running_mean), (a.running_var, b.running_var)):
            worst = max(worst, float((mine.double() - theirs.double()).abs().max()))
    return worst


def freeze_every_other(model: nn.Module) -> None:
    for i, norm in enumerate(norms(model)):
        if i % 3 != 1:
            norm.eval()


# In float64 both are exact: a wrong formula shows at once, in every gradient.
@pytest.mark.parametrize(
    ("shape", "layout", "frozen", "recompute"),
    [(FEW, "last", False, "none"), (FEW, "last", True, "relu"), ((1, 2, 9, 40, 33), "first", False, "relu")],
)
def test_gradients_are_the_networks(
    shape: tuple[int, ...], layout: str, frozen: bool, recompute: str, walks: list[bool]
) -> None:
    model = make(shape[1], torch.float64)
    model.recompute = recompute
    if frozen:
        freeze_every_other(model)
    plain = plain_of(model, torch.float64)
    x = random_clip(*shape).double()
    if layout == "last":
        x = x.contiguous(memory_format=torch.channels_last_3d)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    (loss, found), (expected_loss, expected) = gradients(model, ours), gradients(plain, theirs)
    assert walks == [recompute == "relu"]
    torch.testing.assert_close(loss, expected_loss)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-7, atol=1e-9, msg=name)
    assert ours.grad is not None
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-7, atol=1e-10)
    assert statistics_apart(model, plain) < 1e-12


# Errors compare where maps have many pixels. Over the few of the last blocks single ReLUs and maxima that go
# the other way decide, by chance: there the same network in two layouts differs by a factor of ten.
@pytest.mark.parametrize(
    ("shape", "layout", "frozen", "autocast"),
    [
        ((1, 3, 9, 40, 48), "first", False, False),
        ((2, 3, 3, 45, 37), "last", False, False),
        ((3, 2, 4, 33, 36), "last", True, False),
        ((2, 3, 4, 33, 36), "first", False, True),
        ((1, 2, 5, 48, 33), "last", True, True),
    ],
)
def test_errors_are_those_of_the_plain_network(
    shape: tuple[int, ...], layout: str, frozen: bool, autocast: bool, walks: list[bool]
) -> None:
    """The error of all gradients against float64 is at most 1.5 times that of the plain network."""
    names = ("Mixed_3c", "Mixed_4b")
    model = make(shape[1])
    if frozen:
        freeze_every_other(model)
    exact, plain = plain_of(model, torch.float64), plain_of(model, torch.float32)
    x = random_clip(*shape)
    if layout == "last":
        x = x.contiguous(memory_format=torch.channels_last_3d)
    _, expected = gradients(exact, x.double(), names)
    with torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
        (_, ours), (_, theirs) = gradients(model, x, names), gradients(plain, x, names)
    assert walks
    assert 0 < distance(ours, expected) <= 1.5 * distance(theirs, expected)
    assert statistics_apart(model, exact) < (2e-4 if autocast else 1e-6)


def test_the_head_and_all_endpoints(walks: list[bool]) -> None:
    """Scores and features are the ordinary head's, with their gradients; only what is asked for comes."""
    model = make(dtype=torch.float64)
    plain = plain_of(model, torch.float64)
    x = random_clip(1, 3, 9, 193, 193).double()
    names = ("MaxPool3d_3a_3x3", "Features", "Logits", "Predictions")
    (loss, found), (expected_loss, expected) = (gradients(m, x, names) for m in (model, plain))
    torch.testing.assert_close(loss, expected_loss)
    assert distance(found, expected) < 1e-8
    assert walks
    few = random_clip(*FEW).double()
    assert list(model.forward_endpoints(few, ["Mixed_3b"])) == ["Mixed_3b"]
    assert int(model.Mixed_4b.b0.bn.num_batches_tracked) == 1


def test_runs_are_equal_to_the_bit() -> None:
    model = make()
    x, state = random_clip(*FEW), copy.deepcopy(model.state_dict())
    runs = []
    for recompute in ("none", "none", "relu", "relu"):
        model.load_state_dict(state)
        model.recompute = recompute
        runs.append(gradients(model, x)[1])
    # A map that is computed again is the one that was kept.
    assert all(torch.equal(run[name], runs[0][name]) for run in runs for name in runs[0])


@torch.no_grad()
def test_statistics_move_without_gradients(walks: list[bool]) -> None:
    model = make()
    plain = plain_of(model, torch.float32)
    for network_ in (model, plain):
        network_.forward_features(random_clip(*FEW))
    assert walks
    assert statistics_apart(model, plain) < 1e-6
    assert {int(norm.num_batches_tracked) for norm in norms(model)} == {1}


# The largest map is of the plain network's that would be kept: its bytes once for each tensor in memory.
@pytest.mark.parametrize(("recompute", "share"), [("none", 0.5), ("relu", 0.3)])
def test_kept_bytes(recompute: str, share: float) -> None:
    """With the published widths, whose shares the bound is for; no values are looked at."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network, "TRUNK", FULL)
        patch.setattr(network, "FEATURE_CHANNELS", 1024)
        model, x = I3D(5), random_clip(1, 3, 8, 112, 112)
        model.recompute = recompute
        ours, theirs = kept_bytes(model, x), kept_bytes(reference.I3D(5), x)
    assert ours <= share * theirs


FULL = dict(network.TRUNK)


def kept_bytes(model: reference.I3D, x: Tensor) -> int:
    """Bytes of all that autograd keeps beside parameters, counted once a piece of memory."""
    own = {p.untyped_storage().data_ptr() for p in (*model.parameters(), *model.buffers())}
    pieces: dict[tuple[int, int], int] = {}

    def pack(t: Tensor) -> Tensor:
        if t.untyped_storage().data_ptr() not in own:
            pieces[t.data_ptr(), t.nbytes] = t.nbytes
        return t

    with saved_tensors_hooks(pack, lambda t: t):
        maps = model.forward_endpoints(x, ["Mixed_5c"])
    total = sum(pieces.values())
    del maps
    return total


def test_second_derivatives_name_the_remedy() -> None:
    model = make()
    x = random_clip(*FEW).requires_grad_()
    (slope,) = torch.autograd.grad(model.forward_features(x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match=r"fasti3d\.reference\.I3D\.forward_endpoints\(model"):
        slope.square().sum().backward()
    maps = reference.I3D.forward_endpoints(model, x, ["Mixed_5c"])
    (slope,) = torch.autograd.grad(maps["Mixed_5c"].sum(), x, create_graph=True)
    slope.square().sum().backward()


def test_frozen_parameters_have_no_gradient(walks: list[bool]) -> None:
    model = make(dtype=torch.float64)
    for i, p in enumerate(model.parameters()):
        p.requires_grad_(i % 7 in (1, 2, 5))
    plain = plain_of(model, torch.float64)
    for mine, theirs in zip(plain.parameters(), model.parameters(), strict=True):
        mine.requires_grad_(theirs.requires_grad)
    x = random_clip(*FEW).double()
    for recompute in ("none", "relu"):
        model.recompute = recompute
        _, found = gradients(model, x)
        _, expected = gradients(plain, x)
        assert distance(found, expected) < 1e-8
    assert walks == [False, True]


def test_a_frozen_beginning_keeps_nothing() -> None:
    model = make(dtype=torch.float64)
    for name, part in model.named_children():
        part.requires_grad_(name >= "Mixed_4")
    plain = plain_of(model, torch.float64)
    for mine, theirs in zip(plain.parameters(), model.parameters(), strict=True):
        mine.requires_grad_(theirs.requires_grad)
    x = random_clip(*FEW).double()
    model.recompute = "relu"
    found, expected = (gradients(m, x, ("Mixed_5c",))[1] for m in (model, plain))
    assert distance(found, expected) < 1e-8
    assert model.forward_endpoints(x, ["Mixed_3c"])["Mixed_3c"].grad_fn is None


def test_bytes_and_other_dtypes(walks: list[bool]) -> None:
    """Bytes are scaled, autocast and half precision give their own dtype."""
    model = make()
    frames = torch.randint(0, 256, FEW, dtype=torch.uint8)
    state = copy.deepcopy(model.state_dict())
    ours = model.forward_features(frames)
    model.load_state_dict(state)
    assert torch.equal(ours, model.forward_features(frames.float() / 127.5 - 1))
    with torch.autocast("cpu", torch.bfloat16):
        assert model.forward_features(frames).dtype is torch.bfloat16
    model.bfloat16()
    y = model.forward_features(random_clip(*FEW).bfloat16())
    y.float().square().sum().backward()
    assert len(walks) == 4
    assert all(
        p.grad is not None and p.grad.isfinite().all()
        for n, p in model.named_parameters()
        if "logits" not in n
    )


def test_one_value_per_channel_is_torchs_error() -> None:
    x = random_clip(1, 3, 8, 32, 32)
    messages = []
    for model in (make(), plain_of(make(), torch.float32)):
        with pytest.raises(ValueError, match="more than 1 value per channel") as error:
            model.forward_features(x)
        messages.append(str(error.value))
    assert messages[0] == messages[1]


def test_far_from_the_origin() -> None:
    """Clips of a constant far above their deviation: float32 statistics keep their digits."""
    model = make()
    x = random_clip(*FEW) * 1e-2 + 30
    exact = plain_of(model, torch.float64)
    for network_, clip in ((model, x), (exact, x.double())):
        network_.forward_endpoints(clip, ["Conv3d_1a_7x7"])
    ours, theirs = (m.Conv3d_1a_7x7.bn.running_var for m in (model, exact))
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=0)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_goes_on(value: float) -> None:
    model = make()
    plain = plain_of(model, torch.float32)
    x = random_clip(*FEW)
    x[0, 0, 2, 5, 5] = value
    ours, theirs = model.forward_features(x), plain.forward_features(x)
    assert torch.equal(ours.isnan(), theirs.isnan())
    assert ours.isnan().any()


def _rank(rank: int, rendezvous: str, state: dict[str, Tensor], clips: Tensor, found: str) -> None:
    """One of two processes, of clips of its own: one of three, the other of two."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    sums: list[int] = []
    all_reduce = dist.all_reduce

    def counted(t: Tensor, *args: Any, **options: Any) -> Any:
        sums.append(t.numel())
        return all_reduce(t, *args, **options)

    with narrowed():
        model = nn.SyncBatchNorm.convert_sync_batchnorm(make(dtype=torch.float64))
        model.load_state_dict(state)
        x = clips[:3] if rank == 0 else clips[3:]
        dist.all_reduce = counted
        y = model.forward_features(x)
        forward = len(sums)
        (y * y).sum().backward()
        dist.all_reduce = all_reduce
    for p in model.parameters():
        if p.grad is not None:
            dist.all_reduce(p.grad)
    if rank == 0:
        grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        torch.save((forward, len(sums) - forward, grads, model.state_dict()), found)
    dist.destroy_process_group()


def test_sync_batch_norm_over_two_processes(tmp_path: Path) -> None:
    """Gradients and statistics are those of one process with all clips; a Mixed block sums twice each way."""
    clips = random_clip(5, *FEW[1:]).double()
    model = make(dtype=torch.float64)
    state, path = copy.deepcopy(model.state_dict()), str(tmp_path / "found.pt")
    mp.spawn(_rank, args=(str(tmp_path / "rendezvous"), state, clips, path), nprocs=2)
    forward, backward, grads, after = torch.load(path)
    y = model.forward_features(clips)
    (y * y).sum().backward()
    assert distance(grads, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}) < 1e-9
    for name, value in model.state_dict().items():
        torch.testing.assert_close(after[name], value, rtol=1e-9, atol=1e-12)
    assert forward == backward == 3 + 2 * 9


def no_momentum(model: I3D) -> None:
    model.Mixed_3b.b0.bn.momentum = None


def no_statistics(model: I3D) -> None:
    model.Mixed_4c.b1b.bn = nn.BatchNorm3d(40, track_running_stats=False)


def not_affine(model: I3D) -> None:
    model.Mixed_4c.b1b.bn = nn.BatchNorm3d(40, affine=False)


def a_bias(model: I3D) -> None:
    model.Mixed_3c.b3b.conv3d.bias = nn.Parameter(torch.zeros(24))


def another_layer(model: I3D) -> None:
    model.Mixed_3c.b3b.conv3d = nn.Sequential(model.Mixed_3c.b3b.conv3d)


def parametrized(model: I3D) -> None:
    nn.utils.parametrizations.weight_norm(model.Conv3d_2b_1x1.conv3d)


def hooked(model: I3D) -> None:
    model.Mixed_5b.b2a.bn.register_forward_hook(lambda *_: None)


def backward_hooked(model: I3D) -> None:
    model.Mixed_5b.register_full_backward_hook(lambda *_: None)


def checkpointed(model: I3D) -> None:
    model.gradient_checkpointing = True


UNUSUAL = [
    no_momentum, no_statistics, not_affine, a_bias, another_layer, parametrized, hooked, backward_hooked,
    checkpointed,
]  # fmt: skip


@pytest.mark.parametrize("change", UNUSUAL, ids=lambda change: change.__name__)
def test_the_unusual_runs_as_an_ordinary_module(
    change: Callable[[I3D], None], walks: list[bool], caplog: pytest.LogCaptureFixture
) -> None:
    model = make()
    model.forward_features(random_clip(*FEW))
    change(model)
    caplog.set_level(logging.DEBUG, "fasti3d.i3d")
    model.forward_features(random_clip(*FEW)).sum().backward()
    assert len(walks) == 1
    assert "trains as an ordinary module: " in caplog.text


def test_transforms_run_the_ordinary_module(walks: list[bool]) -> None:
    model = make()
    for norm in norms(model):
        norm.eval()
    x = random_clip(*FEW)
    parameters = {n: p.detach() for n, p in model.named_parameters() if n.startswith("Mixed_3b")}

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        y: Tensor = torch.func.functional_call(model, parameters, (x,), {"names": ["Mixed_3b"]})["Mixed_3b"]
        return y.sum()

    model.forward = model.forward_endpoints  # type: ignore[method-assign]
    torch.func.grad(loss)(parameters)
    torch.func.jvp(lambda v: model(v, ["Conv3d_1a_7x7"])["Conv3d_1a_7x7"], (x,), (x,))
    torch.vmap(lambda v: model(v, ["Conv3d_1a_7x7"])["Conv3d_1a_7x7"])(x[None])
    model.to("meta")(x.to("meta"), ["Mixed_3b"])
    assert walks == []


def test_functional_call_trains_what_it_is_given(walks: list[bool]) -> None:
    model = make(dtype=torch.float64)
    x = random_clip(*FEW).double()
    given = {n: (p.detach() * 1.1).requires_grad_() for n, p in model.named_parameters()}
    buffers = {n: b.clone() for n, b in model.named_buffers()}
    model.forward = model.forward_features  # type: ignore[method-assign]
    torch.func.functional_call(model, (given, buffers), (x,)).sum().backward()
    assert walks
    assert all(p.grad is None for p in model.parameters())
    assert all(p.grad is not None for n, p in given.items() if "logits" not in n)
    assert int(buffers["Mixed_3b.b0.bn.num_batches_tracked"]) == 1
    assert int(model.Mixed_3b.b0.bn.num_batches_tracked) == 0


def test_recompute_is_checked() -> None:
    model = make()
    assert model.recompute == "auto"
    model.recompute = "relu"
    assert copy.deepcopy(model).recompute == "relu"
    model.recompute = None
    assert model.recompute == "auto"
    with pytest.raises(ValueError, match=r"recompute must be one of 'auto', 'relu', 'none', got 'all'"):
        model.recompute = "all"


def test_a_graph_that_is_run_twice() -> None:
    model = make()
    model.recompute = "relu"
    loss = model.forward_features(random_clip(*FEW)).square().sum()
    loss.backward(retain_graph=True)
    once = [p.grad.clone() for p in model.Mixed_4b.parameters()]
    loss.backward()
    for p, first in zip(model.Mixed_4b.parameters(), once, strict=True):
        assert torch.equal(p.grad, first * 2)
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def test_weights_that_change_before_the_backward_pass() -> None:
    model = make()
    loss = model.forward_features(random_clip(*FEW)).sum()
    with torch.no_grad():
        model.Mixed_4b.b1b.conv3d.weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
