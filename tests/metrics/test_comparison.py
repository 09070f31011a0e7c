"""Two sets of videos on disk compared, with colours in the place of the network's features."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clip_making import noise, numbered, write_video

import fasti3d
from fasti3d.metrics import FVDResult, comparison
from fasti3d.metrics.plot import draw_curve
from fasti3d.video import VideoError

pytestmark = [pytest.mark.usefixtures("colours"), pytest.mark.filterwarnings("ignore::UserWarning")]


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Real: 10 videos of 12 frames at 25 a second. Generated: an array of 9 clips of 10 frames."""
    root = tmp_path_factory.mktemp("sides")
    for i in range(10):
        write_video(root / "real" / f"{i}.mkv", numbered(12, (8, 10), first=9 * i))
    np.save(root / "generated.npy", noise(9, frames=10).numpy())
    return {"real": root / "real", "generated": root / "generated.npy"}


def compare(sides: dict[str, Path], **options: Any) -> FVDResult:
    return fasti3d.fvd(**{"frames": 10, "device": "cpu", **sides, **options})


def test_the_score_is_that_of_the_clips_in_the_receipt(sides: dict[str, Path]) -> None:
    done: list[tuple[int, int]] = []
    result = compare(sides, seed=5, progress=lambda *state: done.append(state))
    assert done[-1] == (19, 19)
    assert done == sorted(done)
    metric = fasti3d.FrechetVideoDistance()
    for chosen in result.receipt["real"]["chosen"]:
        video, start = int(Path(chosen["name"]).stem), chosen["start"]
        clip = np.stack(numbered(10, (8, 10), first=9 * video + start))
        metric.update(clip[None], real=True)
    for chosen in result.receipt["generated"]["chosen"]:
        assert chosen["start"] == 0
    metric.update(np.load(sides["generated"]), real=False)
    assert result.score == pytest.approx(metric.compute().item(), rel=1e-9)
    assert compare(sides, seed=5, batch=7).score == pytest.approx(result.score, rel=1e-9)
    assert compare(sides, seed=6).score != result.score


def test_large_clips_go_through_the_network_in_smaller_batches(
    sides: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = compare(sides).score
    one = 10 * 8 * 10 * 3  # bytes
    update, batches = fasti3d.FrechetVideoDistance.update, []

    def spy(self: fasti3d.FrechetVideoDistance, clips: Any, real: bool) -> None:
        batches.append(len(clips))
        update(self, clips, real)

    monkeypatch.setattr(comparison, "_MAX_BYTES", 2 * one)
    monkeypatch.setattr(fasti3d.FrechetVideoDistance, "update", spy)
    assert compare(sides).score == pytest.approx(expected, rel=1e-9)
    assert batches == [2] * 5 + [2] * 4 + [1]


def test_receipt(sides: dict[str, Path]) -> None:
    receipt = json.loads(json.dumps(compare(sides, clips=8, bootstrap=10, extrapolate=True).receipt))
    assert (receipt["seed"], receipt["clips"], receipt["fps"], receipt["frames"]) == (0, 8, None, 10)
    real, generated = receipt["real"], receipt["generated"]
    assert (real["kind"], generated["kind"]) == ("videos", "array")
    assert (real["clips"], generated["clips"]) == (8, 8)
    assert len(real["chosen"]) == len(generated["chosen"]) == 8
    assert (real["frames_of_videos"], generated["frames_of_videos"]) == ([12, 12], [10, 10])
    assert real["frame_rates"] == pytest.approx([25, 25], rel=1e-3)
    assert generated["frame_rates"] is None
    low, high = receipt["interval"]["ends"]
    assert low <= receipt["score"] <= high
    assert receipt["curve"][-1] == {"real": 8, "generated": 8, "score": receipt["score"]}
    assert np.isfinite(receipt["infinite_clips"])


@pytest.mark.filterwarnings("default::UserWarning")
def test_what_differs_between_the_sides_is_told(sides: dict[str, Path], tmp_path: Path) -> None:
    for i in range(3):
        write_video(tmp_path / f"{i}.mkv", numbered(20, (12, 10)), rate=50)
    (tmp_path / "junk.mp4").write_bytes(b"junk")
    with pytest.warns(UserWarning, match="below 256") as found:
        receipt = compare(sides, generated=tmp_path).receipt
    told = receipt["warnings"]
    for said in (
        "generated: junk.mp4",
        "below 256",
        "8x10 on the real side and 12x10 on the generated one",
        "there are 10 real and 3 generated clips",
        "25 frames per second and generated ones 50",
        "12 frames and generated ones 20",
    ):
        assert sum(said in text for text in told) == 1, said
    assert set(told) <= {str(item.message) for item in found}
    ((skipped),) = receipt["generated"]["skipped"]
    assert skipped["name"] == "junk.mp4"
    with pytest.raises(VideoError, match="junk"):
        compare(sides, generated=tmp_path, strict=True)


def test_videos_at_one_rate_are_not_told(sides: dict[str, Path], tmp_path: Path) -> None:
    for i in range(3):
        write_video(tmp_path / f"{i}.mkv", numbered(30, (8, 10)), rate=50)
    receipt = compare(sides, generated=tmp_path, fps=20.0, frames=9, clips=3).receipt
    assert not any("a second" in text for text in receipt["warnings"])
    assert receipt["real"]["frame_rates"] == [20, 20]


def test_saved_statistics_stand_for_their_clips(sides: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "real.npz"
    first = compare(sides, save_stats=path, bootstrap=10)
    second = compare(sides, real=path, bootstrap=10)
    assert (second.score, second.interval) == (first.score, first.interval)
    assert second.receipt["real"]["kind"] == "statistics"
    assert len(second.receipt["real"]["sha256"]) == 64
    swapped = compare({"real": sides["generated"], "generated": path})
    assert swapped.score == pytest.approx(first.score, rel=1e-12)
    with pytest.raises(ValueError, match="preset of these statistics is 'tf'"):
        compare(sides, real=path, preset="stylegan-v")
    with pytest.raises(ValueError, match="must have 10 frames, as the present ones, got 9"):
        compare(sides, real=path, frames=9)
    with pytest.raises(ValueError, match="holds saved statistics already"):
        compare(sides, real=path, save_stats=tmp_path / "again.npz")


def test_arguments_are_checked_before_any_work(sides: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "few").mkdir()
    for name in ("long.mkv", "short.mkv"):
        write_video(tmp_path / "few" / name, numbered(4 if name == "short.mkv" else 12))
    for options, said in (
        ({"real": tmp_path / "few"}, "gives 1 clips of 10 frames.*; short.mkv has 4 frames, fewer"),
        ({"frames": 8}, "at least 9 frames"),
        ({"clips": 1}, "clips must be at least 2, got 1"),
        ({"bootstrap": 1}, "bootstrap must be at least 2, got 1"),
        ({"clips": 10}, "at most the 9"),
        ({"save_stats": tmp_path / "x.txt"}, r"must end in \.npz"),
        ({"real": tmp_path / "no"}, "does not exist"),
    ):
        with pytest.raises(ValueError, match=said):
            compare(sides, **options)
    with pytest.raises(OSError, match="is not a folder"):
        compare(sides, save_stats=tmp_path / "no" / "x.npz")
    floats = tmp_path / "floats.npy"
    np.save(floats, np.load(sides["generated"]) / np.float32(255))
    with pytest.raises(ValueError, match="say value_range"):
        compare(sides, generated=floats)


def test_what_does_not_fit_is_refused_before_a_clip_is_read(
    sides: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = tmp_path / "real.npz"
    compare(sides, save_stats=saved)
    clips = np.load(sides["generated"])
    for name, array in (("short", clips[:, :9]), ("shorter", clips[:, :8]), ("floats", clips / 255.0)):
        np.save(tmp_path / f"{name}.npy", array)
    (tmp_path / "one").mkdir()
    write_video(tmp_path / "one" / "clip.mkv", numbered(12))

    def refuse(*_: object) -> None:
        raise AssertionError("a clip was given")

    monkeypatch.setattr(fasti3d.FrechetVideoDistance, "update", refuse)
    for options, said in (
        (
            {"generated": tmp_path / "short.npy"},
            r"short\.npy holds clips of 9 frames, fewer than 10: ask for 9",
        ),
        ({"generated": tmp_path / "shorter.npy"}, "fewer than 10: use longer clips"),
        ({"clips": 10}, r"at most the 9 that .*generated\.npy holds, got 10"),
        ({"generated": tmp_path / "one"}, "one gives at most 1 clip, but at least 2 are needed"),
        ({"generated": tmp_path / "one", "clips": 17}, "at most 16 for each of the 1 videos"),
        (
            {"generated": tmp_path / "floats.npy"},
            r"floats\.npy holds floating point, .* say value_range .*--range",
        ),
        (
            {"generated": tmp_path / "floats.npy", "value_range": (0, 1)},
            r"uint8 on both sides .*real holds uint8 and .*floats\.npy float",
        ),
        (
            {"real": saved, "generated": tmp_path / "floats.npy", "value_range": (0, 1)},
            "must be uint8, as the present ones, got float",
        ),
    ):
        with pytest.raises(ValueError, match=said):
            compare(sides, **options)


def test_clips_that_are_refused_are_named(sides: dict[str, Path], tmp_path: Path) -> None:
    clips = np.load(sides["generated"]) / np.float32(255)
    np.save(tmp_path / "good.npy", clips)
    clips[3, 0, 0, 0, 0] = np.nan
    np.save(tmp_path / "bad.npy", clips)
    both = {"real": tmp_path / "good.npy", "generated": tmp_path / "bad.npy"}
    with pytest.raises(ValueError, match=r"bad\.npy, clips 3 to 5: clips must be finite"):
        compare(both, value_range=(0, 1))


def test_of_many_videos_that_are_left_out_some_are_shown(sides: dict[str, Path], tmp_path: Path) -> None:
    for i in range(30):
        (tmp_path / f"empty{i}.mp4").touch()
    for i in range(2):
        write_video(tmp_path / f"{i}.mkv", numbered(12, first=40 * i))
    receipt = compare(sides, generated=tmp_path).receipt
    assert len(receipt["generated"]["skipped"]) == 30
    left_out = [text for text in receipt["warnings"] if "left out" in text]
    assert len(left_out) == 21
    assert left_out[-1] == "generated: 10 more videos are left out; the receipt lists them all"


def test_too_few_clips_for_more_than_a_score(sides: dict[str, Path]) -> None:
    result = compare(sides, clips=5, bootstrap=10, extrapolate=True)
    assert result.score > 0
    assert (result.interval, result.infinite, result.curve) == (None, None, ())
    assert "no interval, curve or extrapolation: there must be at least 8" in result.receipt["warnings"][-1]


@pytest.mark.parametrize("name", ["curve.png", "curve.svg", "curve.pdf"])
def test_picture(sides: dict[str, Path], tmp_path: Path, name: str) -> None:
    result = compare(sides, curve=True, bootstrap=5, extrapolate=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_curve(result, tmp_path / name)
    data = (tmp_path / name).read_bytes()
    assert data.startswith({"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[name[-3:]])
    assert [path.name for path in tmp_path.iterdir()] == [name]
    with pytest.raises(ValueError, match="no curve to draw"):
        draw_curve(compare(sides), tmp_path / name)
