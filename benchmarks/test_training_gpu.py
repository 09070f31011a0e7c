"""Training steps on a GPU: fasti3d, and the plain network eagerly and compiled, on the same clips.

A step is forward, loss, backward and SGD with momentum, under autocast; the ratio of two is taken in turns.
"""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fasti3d
from benchmarks.conftest import Race, rounds_within
from fasti3d import reference
from fasti3d.inspect.layers import network_flop

pytestmark = pytest.mark.gpu

Shape = tuple[int, int, int, int, int]

OURS, EAGER, CHANNELS_LAST = "fasti3d", "PyTorch", "PyTorch, channels_last_3d"
COMPILED = "torch.compile, channels_last_3d"
CLASSES = 400
LARGE: Shape = (16, 3, 64, 224, 224)
CASES: tuple[Shape, ...] = (LARGE, (8, 3, 16, 224, 224))
CHECKED: Shape = (2, 3, 16, 112, 112)
# Errors of gradients beside the plain network's under the same autocast, both against float32.
MAX_ERROR = 1.5
WARM_STEPS = 3
# Forward, and the gradients of inputs and of weights.
PASSES = 3


class Bound(NamedTuple):
    """What fasti3d must reach beside a peer: min ratio of step rates, max share of its peak memory."""

    rate: float
    memory: float


# Of the large case.
BOUNDS = {EAGER: Bound(1.0, 0.6), CHANNELS_LAST: Bound(1.0, 0.6), COMPILED: Bound(1.1, 0.8)}


def _ours() -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    model = fasti3d.I3D(CLASSES, dropout=0.0)
    return model, model


def _eager() -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    model = reference.I3D(CLASSES, dropout=0.0)
    return model, model


def _channels_last() -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    model = reference.I3D(CLASSES, dropout=0.0)
    model.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    return model, model


def _compiled() -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    model, _ = _channels_last()
    return model, torch.compile(model, dynamic=False)


CANDIDATES = {OURS: _ours, EAGER: _eager, CHANNELS_LAST: _channels_last, COMPILED: _compiled}


class Training:
    """A candidate with its clips; a call is a step and the wait for its end."""

    def __init__(self, name: str, shape: Shape) -> None:
        torch.manual_seed(0)
        self.model, self.forward = CANDIDATES[name]()
        self.model.cuda().train()
        layout = torch.contiguous_format if name == EAGER else torch.channels_last_3d
        generator = torch.Generator("cuda").manual_seed(1)
        clips = torch.empty(shape, device="cuda").uniform_(-1, 1, generator=generator)
        self.clips = clips.contiguous(memory_format=layout)
        self.labels = torch.arange(shape[0], device="cuda") % CLASSES
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3, momentum=0.9)

    def gradients(self, autocast: bool = True) -> Tensor:
        """All of one step before SGD, in one vector."""
        self.optimizer.zero_grad()
        with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
            loss = F.cross_entropy(self.forward(self.clips), self.labels)
        loss.backward()
        return torch.cat([p.grad.flatten() for p in self.model.parameters() if p.grad is not None])

    def __call__(self) -> None:
        self.optimizer.zero_grad()
        with torch.autocast("cuda", torch.bfloat16):
            loss = F.cross_entropy(self.forward(self.clips), self.labels)
        loss.backward()
        self.optimizer.step()
        torch.cuda.synchronize()


@functools.lru_cache(maxsize=1)
def ours(shape: Shape) -> tuple[Training, float]:
    return warm(OURS, shape)


def warm(name: str, shape: Shape) -> tuple[Training, float]:
    """A candidate that has compiled all it needs, and the MB of device memory that a step takes at the most,
    beyond weights, optimizer and clips.
    """
    training = Training(name, shape)
    for _ in range(WARM_STEPS):
        training()
    training.optimizer.zero_grad()
    gc.collect()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    training()
    return training, (torch.cuda.max_memory_allocated() - before) / 1e6


@functools.cache
def errors() -> tuple[float, float]:
    """Of fasti3d's gradients and of the plain network's, both under autocast, against float32."""
    tf32 = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        exact = Training(EAGER, CHECKED).gradients(autocast=False)
    finally:
        torch.backends.cudnn.allow_tf32 = tf32
    mine, plain = (Training(name, CHECKED).gradients() for name in (OURS, CHANNELS_LAST))
    return float((mine - exact).norm() / exact.norm()), float((plain - exact).norm() / exact.norm())


@pytest.fixture(autouse=True)
def _settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """cuDNN chooses by time, for all alike."""
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    yield
    torch.compiler.reset()
    gc.collect()
    torch.cuda.empty_cache()


@pytest.mark.timeout(580)
@pytest.mark.parametrize("name", CANDIDATES)
@pytest.mark.parametrize("shape", CASES, ids=str)
def test_training_step(race: Race, shape: Shape, name: str) -> None:
    error, plain = errors()
    assert error <= MAX_ERROR * plain, "a wrong result has no speed"
    mine, my_mb = ours(shape)
    training, mb = (mine, my_mb) if name == OURS else warm(name, shape)
    case = f"{'x'.join(map(str, shape))} bfloat16 autocast"
    race.benchmark.group = f"GPU training {case}"
    info = race.benchmark.extra_info
    info |= {"candidate": name, "case": case, "relative_error": error, "device_mb": mb}
    info["memory_share"] = my_mb / mb
    race(
        training,
        None if name == OURS else mine,
        rounds=rounds_within(4, training),
        flop=PASSES * network_flop(shape),
    )
    if shape == LARGE and name in BOUNDS:
        assert my_mb <= BOUNDS[name].memory * mb
        assert "ratio" not in info or info["ratio"] >= BOUNDS[name].rate
