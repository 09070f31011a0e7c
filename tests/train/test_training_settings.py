"""Settings, what they amount to, the learning rate of each step, and which clips it has."""

from __future__ import annotations

from typing import Any

import pytest

from fasti3d.train.schedule import learning_rate
from fasti3d.train.settings import Recipe, TrainingSettings, compared_settings, recipe
from fasti3d.train.stream import ClipStream


def made(settings: TrainingSettings, processes: int = 1, **changes: Any) -> Recipe:
    given = {"videos": 9537, "on_gpu": False, "from_kinetics": True} | changes
    return recipe(settings, processes=processes, **given)


def test_the_defaults_are_the_papers() -> None:
    settings = TrainingSettings()
    assert (settings.momentum, settings.weight_decay, settings.dropout) == (0.9, 1e-7, 0.5)
    found = made(settings)
    assert (found.steps, found.freeze, found.bn_momentum, found.half) == (5000, "none", 0.001, None)
    assert found.lr == pytest.approx(0.1 * 6 / 384)
    assert made(TrainingSettings(freeze="trunk")).lr == pytest.approx(6 / 384)
    assert found.evaluate_every == 500
    assert made(settings, on_gpu=True).half == "bf16"
    assert made(settings, from_kinetics=False).bn_momentum == 0.1


def test_the_learning_rate_goes_with_the_clips_of_a_step() -> None:
    found = made(TrainingSettings(batch=4, accumulate=3), processes=8)
    assert found.global_batch == 96
    assert found.lr == pytest.approx(0.1 * 96 / 384)
    assert made(TrainingSettings(lr=0.3), processes=8).lr == 0.3


@pytest.mark.parametrize(
    ("settings", "processes", "freeze"),
    [
        (TrainingSettings(batch=3), 1, "bn"),
        (TrainingSettings(batch=3, accumulate=4), 1, "bn"),
        (TrainingSettings(batch=3), 8, "bn"),
        (TrainingSettings(batch=3, sync_bn=True), 2, "none"),
        (TrainingSettings(batch=4), 1, "none"),
        (TrainingSettings(batch=3, freeze="none"), 1, "none"),
        (TrainingSettings(batch=8, freeze="trunk"), 1, "trunk"),
    ],
)
def test_statistics_are_frozen_below_four_clips(
    settings: TrainingSettings, processes: int, freeze: str
) -> None:
    assert made(settings, processes).freeze == freeze


def test_epochs_and_a_limit_make_steps() -> None:
    assert made(TrainingSettings(epochs=2), videos=40).steps == 14
    assert made(TrainingSettings(epochs=2), processes=2, videos=40).steps == 7
    assert made(TrainingSettings(limit=40)).steps == 40
    assert made(TrainingSettings(limit=40, steps=7)).steps == 7
    assert made(TrainingSettings(limit=40, epochs=3), videos=40).steps == 20


def test_the_learning_rate_of_each_step() -> None:
    found = made(TrainingSettings(lr=1.0, steps=200))
    rates = [learning_rate(step, found) for step in range(200)]
    assert rates[:3] == pytest.approx([0.1, 0.2, 0.3])
    assert rates[9:140] == [1.0] * 131
    assert rates[140:180] == pytest.approx([0.1] * 40)
    assert rates[180:] == pytest.approx([0.01] * 20)
    assert learning_rate(0, made(TrainingSettings(lr=1.0, steps=1))) == 1.0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"batch": 0}, "batch must be a whole number of at least 1, got 0"),
        ({"batch": 2.5}, "batch must be a whole number"),
        ({"batch": True}, "batch must be a whole number"),
        ({"accumulate": -1}, "accumulate must be"),
        ({"steps": 0}, "steps must be"),
        ({"epochs": 0}, "epochs must be"),
        ({"steps": 5, "epochs": 5}, "give steps or epochs, not both"),
        ({"lr": 0.0}, "lr must be a number above 0"),
        ({"lr": float("nan")}, "lr must be a number above 0"),
        ({"lr": float("inf")}, "lr must be a number above 0"),
        ({"clip_norm": 0.0}, "clip_norm must be"),
        ({"ema": 0.0}, "ema must be"),
        ({"ema": 1.0}, "ema must be from 0 to below 1, got 1.0"),
        ({"dropout": 1.0}, "dropout must be"),
        ({"momentum": 1.5}, "momentum must be"),
        ({"weight_decay": -1.0}, "weight_decay must be"),
        ({"bn_momentum": 0.0}, "bn_momentum must be above 0"),
        ({"bn_momentum": 1.1}, "bn_momentum must be above 0"),
        ({"precise_bn": -1}, "precise_bn must be"),
        ({"limit": 0}, "limit must be"),
        ({"seed": -1}, "seed must be"),
        ({"seed": 1 << 32}, "seed must be below"),
        ({"keep": -1}, "keep must be"),
        ({"workers": -1}, "workers must be"),
        ({"max_bad": 1.5}, "max_bad must be a share"),
        ({"max_bad": float("nan")}, "max_bad must be a share"),
        ({"amp": "fp8"}, "amp must be one of auto, bf16, fp16, off"),
        ({"freeze": "head"}, "freeze must be one of trunk, bn, none"),
        ({"stream": "both"}, "stream must be one of rgb, flow"),
        ({"device": "tpu"}, "device must be"),
        ({"freeze": "bn", "sync_bn": True}, "sync_bn is of statistics"),
        ({"freeze": "trunk", "bn_momentum": 0.1}, "bn_momentum is of statistics"),
        ({"flow_from": "x"}, "flow_from is given, but stream is 'rgb'"),
    ],
)
def test_wrong_settings_are_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingSettings(**wrong)


def test_what_a_run_keeps() -> None:
    def compared(processes: int = 1, **given: Any) -> dict[str, Any]:
        return compared_settings("ucf101", 1, "w", TrainingSettings(**given), processes)

    # The same clips per step, shared out otherwise.
    assert compared(batch=8) == compared(batch=4, accumulate=2) == compared(2, batch=4)
    assert compared(workers=3, device="cpu", keep=2, save_every=7) == compared()
    for other in ({"batch": 8}, {"lr": 0.1}, {"seed": 1}, {"flip": False}, {"ema": 0.9}, {"steps": 9}):
        assert compared(**other) != compared()


def items(videos: int, steps: range, batch: int, accumulate: int = 1, size: int = 1) -> list[list[Any]]:
    """The clips of each step over all processes."""
    streams = [
        list(ClipStream(videos, 5, batch=batch, accumulate=accumulate, rank=rank, size=size, steps=steps))
        for rank in range(size)
    ]
    return [
        sorted(
            item
            for stream in streams
            for part in stream[place * accumulate : (place + 1) * accumulate]
            for item in part
        )
        for place in range(len(steps))
    ]


def test_a_steps_clips_do_not_depend_on_who_reads_them() -> None:
    alone = items(7, range(6), 12)
    assert items(7, range(6), 4, accumulate=3) == items(7, range(6), 3, accumulate=2, size=2) == alone
    assert items(7, range(2, 6), 6, size=2) == alone[2:]
    taken = [item for step in alone for item in step]
    # Each epoch has each video once; the last one is cut.
    assert sorted(taken)[:70] == [(epoch, video) for epoch in range(10) for video in range(7)]


def test_epochs_have_orders_of_their_own() -> None:
    stream = ClipStream(50, 5, batch=50, accumulate=1, rank=0, size=1, steps=range(2))
    first, second = ([video for _, video in part] for part in stream)
    assert first != second
    assert first != list(range(50))
