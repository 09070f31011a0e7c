"""The settings of a training run: names, defaults and checks, which need no torch."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, fields
from typing import Literal, get_args

from fasti3d.choices import check_choice, check_device
from fasti3d.flow.checks import BOUND, check_flow_from
from fasti3d.flow.params import TVL1Params
from fasti3d.utils.parsing import Json

Stream = Literal["rgb", "flow"]
Amp = Literal["auto", "bf16", "fp16", "off"]
Freeze = Literal["trunk", "bn", "none"]

# The paper's: 64 GPUs of 6 clips, of which each has batch norm of its own.
PAPER_LR, PAPER_BATCH = 0.1, 384
# Of a classifier alone, whose loss is convex and whose runs are short.
CLASSIFIER_LR = 1.0
DEFAULT_STEPS = 5_000
# Below this many clips per device, statistics of a batch are too noisy to train with.
MIN_STATISTICS_BATCH = 4
# Settings that may change from one start of a run to the next, as none changes what a step computes. Of its
# clips their number counts, not how they are shared out.
_FREE = frozenset(
    {"workers", "device", "keep", "max_bad", "save_every", "evaluate_every", "flow_from", "new_head"}
)


# In place of weights: random numbers.
SCRATCH = "scratch"


class TrainingError(Exception):
    """A run that cannot start or go on; the message says why and what to do, in one line."""


class RefusedError(TrainingError):
    """A call whose weights, data and folder do not go together."""


@dataclass(frozen=True)
class TrainingSettings:
    """The settings of ``fasti3d.train.finetune``, but for its data, weights and folder.

    Attributes:
        stream: ``"rgb"`` or ``"flow"``.
        steps: Steps of the optimizer; None is 5,000, or what ``epochs`` makes.
        epochs: Passes over the training list, in place of ``steps``.
        batch: Clips per device and forward pass.
        accumulate: Forward passes per step.
        lr: Learning rate after the warm-up; None is .1 times the global batch / 384, the paper's, and ten
            times that for a classifier alone (``freeze="trunk"``).
        momentum, weight_decay: Of SGD.
        dropout: Before the classifier.
        amp: ``"bf16"``, ``"fp16"`` (with a scaled loss), ``"off"``, or ``"auto"``: bf16 on a GPU.
        clip_norm: Max norm of the gradient; None does not clip.
        ema: Decay per step of an average of the weights, which is then evaluated and saved in their place.
        freeze: ``"trunk"`` trains the classifier alone; ``"bn"`` keeps batch norm's statistics as they are;
            None is ``"bn"`` below 4 clips per device, else ``"none"``.
        sync_bn: Take batch norm's statistics over the clips of all devices.
        bn_momentum: Of batch norm's statistics; None is .001 from Kinetics weights, else .1.
        precise_bn: Batches from which statistics are computed anew before each evaluation; 0 for none.
        limit: Try out: this many videos, spread over the list, and as many steps by default.
        seed: Of the order, the crops, the flips and the dropout.
        flip: Mirror every other clip.
        new_head: Replace a classifier of other classes, also where the weights come from a run on them.
        max_bad: Share of the training videos that may fail.
        keep: How many of the last evaluations keep their weights in a file of their own.
        save_every, evaluate_every: Steps between checkpoints, and between evaluations (None: a tenth of the
            run).
        workers: Processes that read clips; None fits the machine, 0 reads in this process.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        flow_from: A folder of computed flow, as for ``TrainingClips``; None computes it on the way.
        flow_bound: Of pictures of flow, the motion in pixels that 0 and 255 stand for.
        tvl1_preset: Parameters of TV-L1, with which flow is computed.

    Raises:
        ValueError: A value is out of range, or two conflict.

    Example:
        >>> TrainingSettings(batch=16, amp="bf16").accumulate
        1
    """

    stream: Stream = "rgb"
    steps: int | None = None
    epochs: int | None = None
    batch: int = 6
    accumulate: int = 1
    lr: float | None = None
    momentum: float = 0.9
    weight_decay: float = 1e-7
    dropout: float = 0.5
    amp: Amp = "auto"
    clip_norm: float | None = None
    ema: float | None = None
    freeze: Freeze | None = None
    sync_bn: bool = False
    bn_momentum: float | None = None
    precise_bn: int = 200
    limit: int | None = None
    seed: int = 0
    flip: bool = True
    new_head: bool = False
    max_bad: float = 0.01
    keep: int = 0
    save_every: int = 100
    evaluate_every: int | None = None
    workers: int | None = None
    device: str = "auto"
    flow_from: str | os.PathLike[str] | None = None
    flow_bound: float = BOUND
    tvl1_preset: str = "i3d"

    def __post_init__(self) -> None:
        for name, kind in {"stream": Stream, "amp": Amp}.items():
            check_choice(name, getattr(self, name), get_args(kind))
        if self.freeze is not None:
            check_choice("freeze", self.freeze, get_args(Freeze))
        check_device(self.device)
        for name in ("steps", "epochs", "batch", "accumulate", "limit", "save_every", "evaluate_every"):
            _check_whole(name, getattr(self, name), 1)
        for name in ("precise_bn", "seed", "keep", "workers"):
            _check_whole(name, getattr(self, name), 0)
        self._check_numbers()
        self._check_together()

    def _check_numbers(self) -> None:
        if self.seed >= 1 << 32:
            raise ValueError(f"seed must be below 2^32, got {self.seed}")
        for name in ("lr", "clip_norm"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name} must be a number above 0, got {value}")
        for name, value in {"momentum": self.momentum, "dropout": self.dropout, "ema": self.ema}.items():
            low = 0 if name != "ema" else math.ulp(0)
            if value is not None and not low <= value < 1:
                raise ValueError(f"{name} must be from 0 to below 1, got {value}")
        if not (self.weight_decay >= 0 and math.isfinite(self.weight_decay)):
            raise ValueError(f"weight_decay must be 0 or more, got {self.weight_decay}")
        if self.bn_momentum is not None and not 0 < self.bn_momentum <= 1:
            raise ValueError(f"bn_momentum must be above 0 and at most 1, got {self.bn_momentum}")
        if not 0 <= self.max_bad <= 1:
            raise ValueError(f"max_bad must be a share from 0 to 1, or 0% to 100%, got {self.max_bad}")

    def _check_together(self) -> None:
        if self.steps is not None and self.epochs is not None:
            raise ValueError(f"give steps or epochs, not both, got {self.steps} and {self.epochs}")
        if self.freeze in ("trunk", "bn"):
            for name in ("sync_bn", "bn_momentum"):
                if getattr(self, name):
                    raise ValueError(
                        f"{name} is of statistics, which freeze {self.freeze!r} keeps: leave one out"
                    )
        if self.flow_from is not None and self.stream != "flow":
            raise ValueError(f"flow_from is given, but stream is {self.stream!r}: choose stream flow")
        params = TVL1Params.preset(self.tvl1_preset)
        flowing = self.stream == "flow"
        check_flow_from(self.flow_from, self.flow_bound, flowing=flowing, preset="readme", params=params)

    def as_json(self) -> Json:
        """Return all settings in JSON's types."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return found | {"flow_from": None if self.flow_from is None else os.fspath(self.flow_from)}

    def compared(self, processes: int) -> Json:
        """Return the settings that a run must keep over all its starts."""
        kept = {
            name: value
            for name, value in self.as_json().items()
            if name not in _FREE | {"batch", "accumulate"}
        }
        return kept | {"global batch": self.batch * self.accumulate * processes}


def compared_settings(
    dataset: str, split: int | None, weights: str, settings: TrainingSettings, processes: int
) -> Json:
    """Return what a run must keep over all its starts, in JSON's types."""
    data = {"dataset": dataset, "split": split, "weights": weights}
    return data | settings.compared(processes)


@dataclass(frozen=True)
class Recipe:
    """What the settings amount to with the data, the devices and the weights that are there.

    Attributes:
        steps, lr, freeze, bn_momentum: as in ``TrainingSettings``, never None.
        global_batch: clips per step over all devices.
        evaluate_every: steps between evaluations.
        half: the dtype of mixed precision, ``bf16`` or ``fp16``; None for none.
    """

    steps: int
    lr: float
    freeze: Freeze
    bn_momentum: float
    global_batch: int
    evaluate_every: int
    half: Literal["bf16", "fp16"] | None


def recipe(
    settings: TrainingSettings, *, videos: int, processes: int, on_gpu: bool, from_kinetics: bool
) -> Recipe:
    """Return what the settings amount to.

    Args:
        videos: in the training list.
        processes: of this run, each with a device.
        on_gpu: whether these are GPUs.
        from_kinetics: whether training starts from weights of Kinetics.

    Example:
        >>> made = recipe(TrainingSettings(), videos=9537, processes=1, on_gpu=True, from_kinetics=True)
        >>> round(made.lr, 4), made.steps, made.freeze, made.half
        (0.0016, 5000, 'none', 'bf16')
    """
    batch = settings.batch * settings.accumulate * processes
    steps = settings.steps or DEFAULT_STEPS
    if settings.epochs is not None:
        steps = math.ceil(settings.epochs * videos / batch)
    elif settings.steps is None and settings.limit is not None:
        steps = settings.limit
    rate = CLASSIFIER_LR if settings.freeze == "trunk" else PAPER_LR
    together = settings.batch * (processes if settings.sync_bn else 1)
    amp = ("bf16" if on_gpu else "off") if settings.amp == "auto" else settings.amp
    return Recipe(
        steps=steps,
        lr=rate * batch / PAPER_BATCH if settings.lr is None else settings.lr,
        freeze=settings.freeze or ("bn" if together < MIN_STATISTICS_BATCH else "none"),
        bn_momentum=settings.bn_momentum or (0.001 if from_kinetics else 0.1),
        global_batch=batch,
        evaluate_every=settings.evaluate_every or max(1, math.ceil(steps / 10)),
        half=None if amp == "off" else amp,
    )


def _check_whole(name: str, value: object, minimum: int) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise ValueError(f"{name} must be a whole number of at least {minimum}, got {value!r}")
