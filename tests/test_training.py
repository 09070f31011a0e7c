"""``fasti3d.I3D`` as an ordinary module: gradients, and the tools that wrap, copy or rewrite modules."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from i3d_making import narrowed
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import fasti3d
from fasti3d import reference

CLASSES = 5
LABEL = torch.tensor([3])
# Both take the same steps on the same numbers, in float64; only the order of summation may differ. Relative
# to the largest gradient of each parameter. (In float32 any other order moves gradients of a random network
# by several hundredths: tests/train/test_training_step.py compares errors.)
GRADIENTS = 1e-9
# The fused path against the ordinary one, in float32.
FUSED = {"rtol": 1e-4, "atol": 1e-5}


def clip(seed: int = 0) -> Tensor:
    """The smallest clip that the head accepts."""
    return torch.empty(1, 3, 9, 193, 193).uniform_(-1, 1, generator=torch.Generator().manual_seed(seed))


def exact_clip(seed: int = 0) -> Tensor:
    return clip(seed).double()


def small_clip() -> Tensor:
    """Too small for the head, and quick: for what ``forward_features`` shows as well."""
    return torch.empty(2, 3, 5, 40, 36).uniform_(-1, 1, generator=torch.Generator().manual_seed(0))


class Step(NamedTuple):
    """What one training step leaves behind."""

    logits: Tensor
    gradients: dict[str, Tensor]
    buffers: dict[str, Tensor]


def step(model: nn.Module, x: Tensor) -> Step:
    torch.manual_seed(1)  # of the dropout
    logits = model(x)
    cross_entropy(logits.float(), LABEL).backward()
    return Step(
        logits.detach(),
        {name: p.grad for name, p in model.named_parameters() if p.grad is not None},
        {name: b.clone() for name, b in model.named_buffers()},
    )


def assert_same(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        worst = (ours[name].double() - value.double()).abs().max().item()
        assert worst <= GRADIENTS * value.double().abs().max().item(), name


pytestmark = pytest.mark.usefixtures("narrow")


@pytest.fixture(scope="module")
def start(narrow: None) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return reference.I3D(CLASSES).state_dict()


@pytest.fixture(scope="module")
def expected(start: dict[str, Tensor]) -> Step:
    plain = reference.I3D(CLASSES).double()
    plain.load_state_dict(start)
    return step(plain, exact_clip())


@pytest.fixture
def model(start: dict[str, Tensor]) -> fasti3d.I3D:
    model = fasti3d.I3D(CLASSES)
    model.load_state_dict(start)
    return model


def test_step_equals_the_references(model: fasti3d.I3D, expected: Step) -> None:
    ours = step(model.double(), exact_clip())
    torch.testing.assert_close(ours.logits, expected.logits)
    assert len(ours.gradients) == len(list(model.parameters()))
    assert_same(ours.gradients, expected.gradients)
    assert_same(ours.buffers, expected.buffers)


def test_gradient_checkpointing_changes_neither_gradients_nor_statistics(
    model: fasti3d.I3D, expected: Step
) -> None:
    model.gradient_checkpointing = True
    ours = step(model.double(), exact_clip())
    assert_same(ours.gradients, expected.gradients)
    assert_same(ours.buffers, expected.buffers)  # running the blocks twice counts as one batch


def test_functional_gradients(model: fasti3d.I3D, expected: Step) -> None:
    model.double()
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    buffers = {name: b.clone() for name, b in model.named_buffers()}

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        logits = torch.func.functional_call(model, (parameters, buffers), (exact_clip(),))
        return cross_entropy(logits.float(), LABEL)  # as in a step

    torch.manual_seed(1)
    leaves = {name: p.requires_grad_() for name, p in parameters.items()}
    gradients = torch.autograd.grad(loss(leaves), list(leaves.values()))
    assert_same(dict(zip(leaves, gradients, strict=True)), expected.gradients)
    assert all(p.grad is None for p in model.parameters())


@torch.no_grad()
def test_functional_call_in_eval_mode_uses_the_weights_given(model: fasti3d.I3D) -> None:
    model.eval()
    x = clip()
    before = model(x)
    given = {name: p * 1.5 for name, p in model.named_parameters()}
    plain = reference.I3D(CLASSES).eval()
    plain.load_state_dict(model.state_dict() | given)
    torch.testing.assert_close(torch.func.functional_call(model, given, (x,)), plain(x), **FUSED)
    assert torch.equal(model(x), before)


def test_gradients_in_eval_mode(model: fasti3d.I3D, start: dict[str, Tensor]) -> None:
    """Saliency maps: the gradient at the clip, with every weight frozen."""
    model.eval().requires_grad_(False)
    plain = reference.I3D(CLASSES).eval().requires_grad_(False)
    plain.load_state_dict(start)
    saliency = []
    for network in (model.double(), plain.double()):
        x = small_clip().double().requires_grad_()
        network.forward_features(x)[:, 3].sum().backward()
        saliency.append(x.grad)
    assert_same({"x": saliency[0]}, {"x": saliency[1]})


def test_autocast_step(model: fasti3d.I3D, expected: Step) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(clip())
        assert logits.dtype is torch.bfloat16
        loss = cross_entropy(logits.float(), LABEL)
    loss.backward()
    assert all(p.grad.dtype is torch.float32 and p.grad.isfinite().all() for p in model.parameters())
    flat = [
        torch.cat([g.flatten() for g in grads])
        for grads in (
            [p.grad for p in model.logits.parameters()],
            [g.float() for name, g in expected.gradients.items() if name.startswith("logits.")],
        )
    ]
    assert torch.cosine_similarity(*flat, dim=0) > 0.99  # the classifier sees the same features
    before = model.Conv3d_1a_7x7.conv3d.weight.detach().clone()
    optimizer.step()
    assert not torch.equal(model.Conv3d_1a_7x7.conv3d.weight, before)


def _rank(rank: int, rendezvous: str, start: dict[str, Tensor]) -> None:
    """One of two processes: gradients are the mean of what each process finds on its own clip."""
    torch.set_num_threads(1)
    with narrowed():
        _parallel_step(rank, rendezvous, start)


def _parallel_step(rank: int, rendezvous: str, start: dict[str, Tensor]) -> None:
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    alone = reference.I3D(CLASSES).double()
    alone.load_state_dict(start)
    expected = step(alone, exact_clip(rank)).gradients
    for gradient in expected.values():
        dist.all_reduce(gradient)
        gradient /= 2

    model = fasti3d.I3D(CLASSES).double()
    model.load_state_dict(start)
    parallel = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(parallel.parameters(), lr=0.01)
    step(parallel, exact_clip(rank))
    assert_same({name: p.grad for name, p in model.named_parameters()}, expected)

    optimizer.step()
    mine = nn.utils.parameters_to_vector(model.parameters()).detach()
    theirs = mine.clone()
    dist.broadcast(theirs, src=0)
    assert torch.equal(mine, theirs)
    dist.destroy_process_group()


def test_distributed_data_parallel(start: dict[str, Tensor], tmp_path: Path) -> None:
    mp.spawn(_rank, args=(str(tmp_path / "rendezvous"), start), nprocs=2)


@torch.no_grad()
@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"]
)
def test_copies_are_equal_and_independent(
    duplicate: Callable[[fasti3d.I3D], fasti3d.I3D], model: fasti3d.I3D
) -> None:
    model.eval()
    x = small_clip()
    before = model.forward_features(x)  # puts the fused weights in place
    assert model._plan is not None
    twin = duplicate(model)
    assert torch.equal(twin.forward_features(x), before)
    twin.Mixed_5c.b0.bn.bias += 1
    assert not torch.allclose(twin.forward_features(x), before)
    assert torch.equal(model.forward_features(x), before)
    assert twin.train().training
    assert not model.training


@torch.no_grad()
def test_sync_batch_norm(model: fasti3d.I3D, start: dict[str, Tensor]) -> None:
    model.eval()
    x = small_clip()
    before = model.forward_features(x)
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert sum(isinstance(m, nn.SyncBatchNorm) for m in converted.modules()) == 57
    torch.testing.assert_close(converted.forward_features(x), before, **FUSED)
    converted.load_state_dict(start)
    assert converted.state_dict().keys() == start.keys()
    assert {m.eps for m in converted.modules() if isinstance(m, nn.SyncBatchNorm)} == {1e-3}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_batch_norm_in_float32(dtype: torch.dtype, model: fasti3d.I3D) -> None:
    x = clip()
    with torch.no_grad():
        expected = model.eval()(x)
        logits = model.to(dtype)(x.to(dtype))
    norms = {p.dtype for m in model.modules() if isinstance(m, nn.BatchNorm3d) for p in m.parameters()}
    assert norms == {torch.float32}
    assert {m.conv3d.weight.dtype for m in model.modules() if isinstance(m, reference.Unit3D)} == {dtype}
    assert logits.dtype is dtype
    # Half precision of weights, clip and maps; bfloat16 has 8 bits.
    torch.testing.assert_close(logits.float(), expected, rtol=0.05, atol=0.02 * expected.abs().max().item())


@torch.no_grad()
def test_dropout_acts_in_training_only(model: fasti3d.I3D) -> None:
    x = clip()
    # Batch statistics do not change from call to call, so only dropout can tell two calls apart.
    assert not torch.allclose(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


@torch.no_grad()
def test_replace_logits_keeps_dtype_and_mode(model: fasti3d.I3D) -> None:
    model.eval()
    x = clip()
    assert model(x).shape == (1, CLASSES)
    model.replace_logits(9)
    assert not model.logits.training
    assert model(x).shape == (1, 9), "the fused path has the new classifier"
    model.double().train().replace_logits(4)
    assert model.logits.training
    assert model.logits.conv3d.weight.dtype is torch.float64
    assert model.to("meta").logits.conv3d.weight.is_meta
    model.replace_logits(2)
    assert model.logits.conv3d.weight.is_meta
