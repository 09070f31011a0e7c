"""The training step of ``fasti3d.I3D`` on a GPU against the ordinary network: gradients, bits, memory."""

from __future__ import annotations

import gc

import pytest
import torch
from requiring import require
from torch import Tensor, nn

from fasti3d import I3D, reference
from fasti3d.runtime import gpu
from fasti3d.train.step import walk

pytestmark = pytest.mark.gpu

CLASSES = 5


@pytest.fixture(autouse=True)
def _kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    require(gpu.why_no_triton(torch.device("cuda")))
    # Algorithms of cuDNN that add in any order, and TF32, are none of the step.
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)


@pytest.fixture
def walks(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each walk of the training step recomputed."""
    seen: list[bool] = []

    def recorded(*args: object, recompute: bool) -> dict[str, Tensor]:
        seen.append(recompute)
        return walk(*args, recompute=recompute)  # type: ignore[arg-type]

    monkeypatch.setattr("fasti3d.i3d.walk", recorded)
    return seen


def make(in_channels: int = 3) -> I3D:
    torch.manual_seed(0)
    model = I3D(CLASSES, in_channels, dropout=0.0)
    with torch.no_grad():
        for norm in norms(model):
            norm.weight.uniform_(0.5, 1.5)
            norm.weight[::4] *= -1
            norm.bias.uniform_(-0.3, 0.5)
    return model.cuda()


def norms(model: nn.Module) -> list[nn.BatchNorm3d]:
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm3d)]


def plain_of(model: I3D, dtype: torch.dtype = torch.float32) -> reference.I3D:
    """The ordinary network with the same values."""
    assert model.in_channels is not None
    plain = reference.I3D(CLASSES, model.in_channels, dropout=0.0)
    plain.load_state_dict(model.state_dict())
    return plain.to("cuda", dtype, memory_format=torch.channels_last_3d)


def clip(*shape: int) -> Tensor:
    x = torch.empty(shape).uniform_(-1, 1, generator=torch.Generator().manual_seed(0)).cuda()
    return x.contiguous(memory_format=torch.channels_last_3d)


def gradients(model: reference.I3D, x: Tensor, autocast: torch.dtype | None = None) -> dict[str, Tensor]:
    """Of a sum in which every value of the last map counts, and of two maps before it."""
    model.zero_grad()
    with torch.autocast("cuda", autocast, enabled=autocast is not None):
        maps = model.forward_endpoints(x, ["Conv3d_2c_3x3", "Mixed_4b", "Mixed_5c"])
    loss = torch.zeros((), dtype=torch.float64, device="cuda")
    for value in maps.values():
        generator = torch.Generator("cuda").manual_seed(value.shape[1])
        weights = torch.rand(value.shape, generator=generator, device="cuda", dtype=torch.float64) - 0.5
        loss = loss + (value.double() * weights).sum() / value.numel() ** 0.5
    loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def distance(found: dict[str, Tensor], exact: dict[str, Tensor]) -> float:
    """Of all gradients together, relative to their norm."""
    assert found.keys() == exact.keys()
    apart = sum((found[n].double() - exact[n]).square().sum() for n in exact)
    return float((apart / sum(g.square().sum() for g in exact.values())).sqrt())


@pytest.mark.parametrize("recompute", ["none", "relu"])
@pytest.mark.parametrize("autocast", [None, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(2, 3, 16, 64, 64), (3, 2, 9, 75, 50)])
def test_errors_are_those_of_the_plain_network(
    shape: tuple[int, ...], autocast: torch.dtype | None, recompute: str, walks: list[bool]
) -> None:
    model, x = make(shape[1]), clip(*shape)
    model.recompute = recompute
    exact, plain = plain_of(model, torch.float64), plain_of(model)
    expected = gradients(exact, x.double())
    found, theirs = gradients(model, x, autocast), gradients(plain, x, autocast)
    assert walks == [recompute == "relu"]
    assert distance(found, expected) <= 1.5 * distance(theirs, expected)
    limit = 2e-6 if autocast is None else 2e-3
    for mine, its in zip(norms(model), norms(exact), strict=True):
        assert mine.num_batches_tracked == its.num_batches_tracked == 1
        torch.testing.assert_close(mine.running_mean.double(), its.running_mean, rtol=limit, atol=limit)
        torch.testing.assert_close(mine.running_var.double(), its.running_var, rtol=limit, atol=limit)


@pytest.mark.parametrize("autocast", [None, torch.bfloat16], ids=str)
def test_runs_are_equal_to_the_bit(autocast: torch.dtype | None) -> None:
    model, x = make(), clip(2, 3, 16, 112, 112)
    runs = []
    for recompute in ("none", "none", "relu", "relu"):
        model.recompute = recompute
        runs.append({name: g.clone() for name, g in gradients(model, x, autocast).items()})
    assert all(torch.equal(run[name], runs[0][name]) for run in runs for name in runs[0])


def peak(model: reference.I3D, x: Tensor) -> int:
    """Bytes at the most in a step, beyond what is there before, of the second of two."""
    for _ in range(2):
        model.zero_grad()
        gc.collect()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        with torch.autocast("cuda", torch.bfloat16):
            loss = model(x).float().square().sum()
        loss.backward()
        del loss
    return torch.cuda.max_memory_allocated() - before


def test_peak_memory() -> None:
    """At most 0.6 of the plain network's, as the benchmark asks at a larger batch."""
    x = clip(4, 3, 32, 224, 224)
    model = make()
    assert peak(model, x) <= 0.6 * peak(plain_of(model), x)


def test_what_is_not_finite_goes_on() -> None:
    model, x = make(), clip(2, 3, 16, 64, 64)
    x[0, 0, 3, 5, 5] = torch.nan
    with torch.autocast("cuda", torch.bfloat16):
        maps = model.forward_endpoints(x, ["Mixed_5c"])
    assert maps["Mixed_5c"].isnan().all()
