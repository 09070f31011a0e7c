"""FrechetVideoDistance, with colours in the place of the network's features."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clip_making import Colours, noise
from torch import Tensor

from fasti3d import FrechetVideoDistance

pytestmark = [
    pytest.mark.usefixtures("colours"),
    pytest.mark.filterwarnings("ignore:FVD of:UserWarning"),
]

REAL, GENERATED = noise(20, seed=1), noise(14, seed=2)


def filled(**options: Any) -> FrechetVideoDistance:
    metric = FrechetVideoDistance(**options)
    metric.update(REAL, real=True)
    metric.update(GENERATED, real=False)
    return metric


def score(metric: FrechetVideoDistance) -> float:
    return metric.compute().item()


def test_the_score_is_the_formula_of_the_features() -> None:
    embed = Colours(None, "", batch=None)
    first, second = (embed(clips.permute(0, 1, 4, 2, 3), 0, 255).numpy() for clips in (REAL, GENERATED))
    covariances = [np.cov(x, rowvar=False) for x in (first, second)]
    root = np.sqrt(np.linalg.eigvals(covariances[0] @ covariances[1]).astype(complex)).real.sum()
    means = np.square(first.mean(0) - second.mean(0)).sum()
    found = filled().compute()
    assert (found.dtype, found.shape) == (torch.float64, ())
    assert found.item() == pytest.approx(means + sum(map(np.trace, covariances)) - 2 * root, rel=1e-9)
    assert filled(preset="cd-fvd").compute() < found


def test_batches_and_order_do_not_matter() -> None:
    expected = score(filled())
    metric = FrechetVideoDistance(batch=4)
    for part in REAL.flip(0).split(3):
        metric.update(part, real=True)
        if metric._sides[False].count < len(GENERATED):
            metric.update(GENERATED[metric._sides[False].count][None], real=False)
    metric.update(GENERATED[metric._sides[False].count :], real=False)
    assert score(metric) == pytest.approx(expected, rel=1e-9)


def test_four_parts_merge() -> None:
    expected = score(filled(keep_features=True))
    parts = []
    for real, generated in zip(REAL.split(5), GENERATED.split(4), strict=True):
        part = FrechetVideoDistance(keep_features=True)
        part.update(real, real=True)
        part.update(generated, real=False)
        parts.append(part)
    whole = FrechetVideoDistance(keep_features=True)
    for part in parts:
        whole.merge(part)
    assert score(whole) == pytest.approx(expected, rel=1e-12)
    assert whole._sides[True].features.shape == (20, 6)
    assert parts[0]._sides[True].count == 5


def test_the_same_set_twice() -> None:
    metric = FrechetVideoDistance()
    metric.update(REAL, real=True)
    metric.update(REAL.flip(0), real=False)
    assert 0 <= score(metric) < 1e-6


@pytest.mark.parametrize(("layout", "axes"), [("NCTHW", (0, 4, 1, 2, 3)), ("NTCHW", (0, 1, 4, 2, 3))])
def test_layouts(layout: str, axes: tuple[int, ...]) -> None:
    metric = FrechetVideoDistance(layout=layout)
    metric.update(REAL.permute(axes), real=True)
    metric.update(GENERATED.permute(axes).numpy(), real=False)
    assert score(metric) == pytest.approx(score(filled()), rel=1e-9)


@pytest.mark.parametrize("limits", [(0, 1), (-1, 1), (0, 255)])
def test_floats_in_the_range_that_is_said(limits: tuple[float, float]) -> None:
    low, high = limits
    metric = FrechetVideoDistance(value_range=limits)
    for clips, real in ((REAL, True), (GENERATED, False)):
        metric.update(clips.double() / 255 * (high - low) + low, real=real)
    assert score(metric) == pytest.approx(score(filled()), rel=1e-9)


def test_states_travel() -> None:
    metric = filled(keep_features=True)
    file = io.BytesIO()
    torch.save(metric.state_dict(), file)
    file.seek(0)
    other = FrechetVideoDistance(keep_features=True)
    other.update(GENERATED, real=True)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert score(other) == score(metric)
    assert other.extrapolate() == metric.extrapolate()
    assert other.receipt() == metric.receipt()
    before = other.state_dict()
    other.update(REAL, real=True)
    assert before["real"]["count"] == 20


def test_a_state_that_does_not_fit_changes_nothing() -> None:
    metric = filled()
    expected = score(metric)
    cut = metric.state_dict()
    del cut["generated"]
    for state, said in (
        ({}, "lacks frames, generated, kind, preset, real, weights"),
        (cut, "state must be what state_dict\\(\\) gave, but lacks generated"),
        (filled(preset="cd-fvd").state_dict(), "preset of these statistics is 'cd-fvd'"),
    ):
        with pytest.raises(ValueError, match=said):
            metric.load_state_dict(state)
        assert score(metric) == expected


def test_states_come_back_from_other_devices_and_defaults() -> None:
    """What ``map_location`` and ``set_default_device`` of a training program do to tensors."""
    moved = []

    class Elsewhere:
        """A tensor of another device, as far as this machine can have one."""

        def __init__(self, tensor: Tensor) -> None:
            self._tensor = tensor

        def to(self, *place: object) -> Tensor:
            moved.append(place)
            return self._tensor

    metric = filled(keep_features=True)
    state = metric.state_dict()
    for side in (state["real"], state["generated"]):
        side |= {name: Elsewhere(side[name]) for name in ("mean", "scatter", "features")}
    other = FrechetVideoDistance(keep_features=True)
    other.load_state_dict(state)
    assert score(other) == score(metric)
    assert moved == [("cpu", torch.float64)] * 6
    with torch.device("meta"):
        other.reset()
    other.merge(metric)
    assert score(other) == score(metric)
    assert other.bootstrap(5) == metric.bootstrap(5)


def test_reset() -> None:
    metric = filled()
    expected = score(metric)
    metric.reset(real=False)
    with pytest.raises(ValueError, match=r"generated clips must be at least 2 .* got 0"):
        metric.compute()
    metric.update(GENERATED, real=False)
    assert score(metric) == expected
    metric.reset()
    metric.update(noise(2, frames=12), real=False)
    metric.reset(real=False)
    metric.update(noise(2), real=True)  # of another length: there are no clips any more


def test_saved_statistics(tmp_path: Path) -> None:
    metric = filled(keep_features=True)
    metric.save_statistics(tmp_path / "real.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["real.npz"]
    other = FrechetVideoDistance(keep_features=True)
    other.load_statistics(tmp_path / "real.npz")
    other.update(GENERATED, real=False)
    assert score(other) == score(metric)
    assert other.bootstrap(10) == metric.bootstrap(10)
    with np.load(tmp_path / "real.npz") as file:
        assert set(file) == {"mean", "scatter", "features", "fasti3d_fvd"}


def test_statistics_of_something_else_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "real.npz"
    filled().save_statistics(path)
    with pytest.raises(
        ValueError, match=r"real\.npz: preset of these statistics is 'tf', of this metric 'cd-fvd'"
    ):
        FrechetVideoDistance("cd-fvd").load_statistics(path)
    with pytest.raises(ValueError, match="weights of these statistics is 'hash of kinetics400-rgb'"):
        FrechetVideoDistance(weights="other").load_statistics(path)
    metric = FrechetVideoDistance()
    metric.update(noise(2, frames=10), real=False)
    with pytest.raises(ValueError, match="must have 10 frames, as the present ones, got 9"):
        metric.load_statistics(path)
    with pytest.raises(ValueError, match="preset of these"):
        FrechetVideoDistance("cd-fvd").merge(metric)
    for data in (b"", b"junk", path.read_bytes()[:-200]):
        path.write_bytes(data)
        with pytest.raises(ValueError, match="holds no statistics"):
            FrechetVideoDistance().load_statistics(path)
    np.savez(path, clips=np.zeros(3))
    with pytest.raises(ValueError, match="holds no statistics saved by fasti3d"):
        FrechetVideoDistance().load_statistics(path)
    with pytest.raises(ValueError, match=r"must end in \.npz"):
        filled().save_statistics(tmp_path / "real.pkl")


def bad(clips: Tensor, **options: Any) -> Callable[[], None]:
    return lambda: FrechetVideoDistance(**options).update(clips, real=True)


NAN = torch.full((2, 9, 8, 8, 3), 0.5)
NAN[1, 3, 2, 1] = float("nan")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (bad(noise(2, frames=8)), "at least 9 frames, .* got 8: use longer clips"),
        (bad(noise(2)[0]), r"5 axes, NTHWC, got shape \(9, 8, 10, 3\) \(add the axis"),
        (bad(noise(2), layout="NCTHW"), r"3 channels on axis 1 in layout NCTHW.*say layout='NTHWC'"),
        (bad(noise(2).permute(0, 4, 1, 2, 3)), "say layout='NCTHW'"),
        (bad(noise(2)[..., :1]), "convert them to RGB"),
        (bad(noise(2)[:0]), "must not be empty"),
        (bad(noise(2).int()), "uint8 .* got torch.int32"),
        (bad(noise(2).float()), "torch.float32, whose range is not known: say value_range"),
        (
            bad(noise(2).float(), value_range=(0, 1)),
            "in their value_range of 0 to 1, .* from 6 to 231",
        ),
        (bad(noise(2) / 255 - 0.5, value_range=(0, 1)), "value_range of 0 to 1, .* from -0.4"),
        (bad(NAN, value_range=(0, 1)), "must be finite"),
        (bad(NAN, layout="HWC"), "layout must be one of NTHWC, NCTHW, NTCHW, got 'HWC'"),
        (bad(NAN, value_range=(1, 0)), "black and white"),
        (bad(NAN, value_range=(0, 1, 2)), r"black and white, .* got \(0, 1, 2\)"),
        (bad(NAN, value_range=1), "black and white, .* got 1"),
        (bad(NAN, value_range="01"), "black and white, .* got '01'"),
        (bad(NAN, preset="google"), "preset must be one of"),
        (
            lambda: FrechetVideoDistance().update(noise(2), real="fake"),  # type: ignore[arg-type]
            "real must be True or False, got 'fake'",
        ),
    ],
)
def test_wrong_clips_are_refused(call: Callable[[], None], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        call()


def test_no_array_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="clips must be a NumPy array or a torch tensor"):
        FrechetVideoDistance().update([[1, 2]], real=True)  # type: ignore[arg-type]


def test_clips_of_two_kinds_are_refused_and_change_nothing() -> None:
    metric = filled(value_range=(0, 1))
    expected = score(metric)
    with pytest.raises(ValueError, match="must have 9 frames, as the present ones, got 12"):
        metric.update(noise(3, frames=12), real=False)
    with pytest.raises(ValueError, match="must be uint8, as the present ones, got float"):
        metric.update(noise(3) / 255, real=False)
    assert score(metric) == expected


def test_values_that_look_like_another_range_are_warned_of() -> None:
    metric = FrechetVideoDistance(value_range=(0, 255))
    with pytest.warns(UserWarning, match="nearly black in their value_range of 0 to 255"):
        metric.update(noise(2) / 255, real=True)
    with pytest.warns(UserWarning, match="0 to 1, nearly black .* scaled by 255 before they became uint8"):
        FrechetVideoDistance().update(noise(2) // 128, real=True)
    clips = noise(2) / 255
    clips[0, 0, 0, 0, 0] = 0.0
    with pytest.warns(UserWarning, match="which look like 0 to 1 in their value_range of -1 to 1"):
        FrechetVideoDistance(value_range=(-1, 1)).update(clips, real=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metric.update(noise(2).float(), real=True)
        metric.update(torch.zeros(2, 9, 8, 8, 3), real=True)
        FrechetVideoDistance().update(torch.zeros(2, 9, 8, 8, 3, dtype=torch.uint8), real=True)
        FrechetVideoDistance(value_range=(-1, 1)).update(clips * 2 - 1, real=True)


def test_too_few_clips() -> None:
    metric = FrechetVideoDistance()
    metric.update(REAL[:1], real=True)
    metric.update(GENERATED, real=False)
    with pytest.raises(ValueError, match=r"real clips must be at least 2 .* got 1: give more"):
        metric.compute()


@pytest.mark.filterwarnings("default")
def test_doubts_are_warnings_and_in_the_receipt() -> None:
    metric = filled()
    with pytest.warns(UserWarning, match="FVD of 20 real and 14 generated clips: below 256") as found:
        metric.compute()
    assert [str(item.message) for item in found] == metric.receipt()["warnings"]
    assert found[0].filename == __file__
    metric.update(noise(2, size=(12, 10)), real=False)
    (_, sizes) = metric.receipt()["warnings"]
    assert "8x10 on the real side and 8x10, 12x10 on the generated one" in sizes
    enough = FrechetVideoDistance()
    for real in (True, False):
        enough.update(noise(256, seed=int(real)), real=real)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        enough.compute()


def test_receipt_is_json_and_complete() -> None:
    receipt = json.loads(json.dumps(filled().receipt()))
    assert receipt["score"] == score(filled())
    assert (receipt["preset"], receipt["covariance"], receipt["frames"]) == ("tf", "unbiased (N - 1)", 9)
    assert receipt["weights"]["sha256"] == "hash of kinetics400-rgb"
    assert receipt["real"] == {"clips": 20, "sizes": {"8x10": 20}}
    assert receipt["generated"]["clips"] == 14
    assert set(receipt["versions"]) == {"fasti3d", "torch", "numpy", "python"}
    assert filled(preset="cd-fvd").receipt()["covariance"] == "biased (N)"


def test_features_are_needed_for_what_draws_subsets() -> None:
    for call in (filled().extrapolate, filled().curve, filled().bootstrap):
        with pytest.raises(ValueError, match="pass keep_features=True"):
            call()
    few = FrechetVideoDistance(keep_features=True)
    for real in (True, False):
        few.update(REAL[:7], real=real)
    with pytest.raises(ValueError, match=r"at least 8 clips per side .* got 7"):
        few.curve()
