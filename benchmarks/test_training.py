"""Training steps: fasti3d and the ordinary network, plain, in channels_last_3d and compiled, in one run."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import memory
from benchmarks.conftest import Race
from fasti3d import I3D, reference

CASES = [(2, 3, 16, 224, 224), (1, 3, 16, 112, 112)]
OURS = "fasti3d"
# Of all gradients together, against those of a float64 run; float32 in any order of sums is that far from it.
TOLERANCE = 0.1
CLASSES = 101
Shape = tuple[int, ...]


CANDIDATES: dict[str, tuple[Callable[[], reference.I3D], bool, bool]] = {
    # The network, whether it is in channels_last_3d, whether it is compiled.
    OURS: (lambda: I3D(CLASSES, dropout=0.0), False, False),
    f"{OURS}, recompute": (lambda: I3D(CLASSES, dropout=0.0), False, False),
    "plain": (lambda: reference.I3D(CLASSES, dropout=0.0), False, False),
    "plain, channels_last_3d": (lambda: reference.I3D(CLASSES, dropout=0.0), True, False),
    "torch.compile": (lambda: reference.I3D(CLASSES, dropout=0.0), False, True),
}


def _flop(shape: Shape) -> float:
    """Of the convolutions of the trunk forwards, and for the gradients of their inputs and weights."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        reference.I3D(CLASSES).forward_endpoints(torch.empty(shape), ["Mixed_5c"])
    return 3.0 * counter.get_total_flops()


class Step:
    """A network with a clip, and its training step, which is what a call runs: forward, loss, backward."""

    def __init__(self, name: str, shape: Shape, dtype: torch.dtype = torch.float32) -> None:
        make, last, compiled = CANDIDATES[name]
        torch.manual_seed(0)
        self.network = make().to(dtype)
        if isinstance(self.network, I3D):
            self.network.recompute = "relu" if "recompute" in name else "none"
        clip = torch.rand(shape, generator=torch.Generator().manual_seed(1)).to(dtype) * 2 - 1
        if last:
            self.network.to(memory_format=torch.channels_last_3d)
            clip = clip.contiguous(memory_format=torch.channels_last_3d)
        self.clip, self.labels = clip, torch.arange(shape[0])
        # The head wants 193 pixels: of smaller clips the trunk's last map is averaged.
        self.run = torch.compile(self._loss) if compiled else self._loss

    def _loss(self, clip: Tensor) -> Tensor:
        maps = self.network.forward_endpoints(clip, ["Mixed_5c"])
        pooled = maps["Mixed_5c"].mean((2, 3, 4), keepdim=True)
        return cross_entropy(self.network.logits(pooled).flatten(1), self.labels)

    def __call__(self) -> None:
        self.network.zero_grad()
        self.run(self.clip).backward()

    def gradients(self) -> Tensor:
        """Of all parameters, one after another."""
        self()
        return torch.cat([p.grad.double().flatten() for p in self.network.parameters() if p.grad is not None])

    def kept_mb(self) -> float:
        """MB that autograd keeps beside parameters and clip, once for each piece of memory."""
        own = {t.untyped_storage().data_ptr() for t in (self.clip, *self.network.state_dict().values())}
        pieces: dict[tuple[int, int], int] = {}

        def pack(t: Tensor) -> Tensor:
            if t.untyped_storage().data_ptr() not in own:
                pieces[t.data_ptr(), t.nbytes] = t.nbytes
            return t

        with saved_tensors_hooks(pack, lambda t: t):
            loss = self.run(self.clip)
        total = sum(pieces.values()) / 1e6
        del loss
        return total


@functools.lru_cache(maxsize=1)
def ours(shape: Shape) -> Step:
    return Step(OURS, shape)


@functools.lru_cache(maxsize=1)
def exact(shape: Shape) -> Tensor:
    return Step("plain", shape, torch.float64).gradients()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("shape", CASES, ids=lambda shape: "x".join(map(str, shape)))
@pytest.mark.parametrize("name", CANDIDATES)
def test_training_step(race: Race, name: str, shape: Shape) -> None:
    candidate = ours(shape) if name == OURS else Step(name, shape)
    error = float((candidate.gradients() - exact(shape)).norm() / exact(shape).norm())
    assert error < TOLERANCE, "a wrong result has no speed"
    case = f"{'x'.join(map(str, shape))} float32"
    race.benchmark.group = f"training step {case}"
    race.benchmark.extra_info |= {
        "candidate": name,
        "case": case,
        "relative_error": error,
        "kept_mb": candidate.kept_mb(),
        "peak_mb": memory.cpu_peak(candidate),
    }
    # Forward, and the gradients of inputs and weights.
    race(candidate, None if name == OURS else ours(shape), rounds=5, flop=_flop(shape))
