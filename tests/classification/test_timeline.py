"""The picture: right where it can be measured, whole on disk, and nothing in it cut."""

from __future__ import annotations

import dataclasses
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from fasti3d.classification import timeline
from fasti3d.classification.film import FilmFrame
from fasti3d.classification.result import Classification, Span

LONG = (
    "passing American football (not in game)",
    "using remote controller (not gaming)",
    "a $name$ with dollars",
)
LABELS = (*LONG, "Donaudampfschifffahrtsgesellschaftskapitän", "yoga", "archery")


def make(
    probabilities: list[list[float]], path: str = "clip.mp4", labels: tuple[str, ...] = LABELS
) -> Classification:
    """A result with these probabilities: windows of 2.56 s, each 1.28 s after the one before."""
    rows = torch.tensor(probabilities)
    spans = tuple(Span(1.28 * i, 1.28 * i + 2.56) for i in range(len(rows)))
    end = spans[-1].end
    shades = torch.linspace(0, 255, 40).to(torch.uint8)
    film = tuple(
        FilmFrame(
            end * i / 40,
            torch.stack([shade, 255 - shade, torch.tensor(0, dtype=torch.uint8)]).expand(8, 8, 3),
        )
        for i, shade in enumerate(shades)
    )
    return Classification(
        path=Path(path),
        fps=25.0,
        frames=round(25 * end),
        spans=spans,
        logits=rows.log(),
        labels=labels[: rows.shape[1]],
        warnings=(),
        device=torch.device("cpu"),
        dtype=torch.float32,
        seconds=1.0,
        film=film,
    )


def pixels(path: Path) -> np.ndarray:
    return np.asarray(imread(path))[..., :3]


def test_the_line_is_at_the_probability_and_the_film_runs_with_time(tmp_path: Path) -> None:
    result = make([[0.75, 0.25], [0.75, 0.25], [0.25, 0.75], [0.25, 0.75]])
    timeline.draw_timeline(result, tmp_path / "a.png")
    image = pixels(tmp_path / "a.png")
    height, width, _ = image.shape
    assert (width, height) == (1650, 675)

    left, right = 0.7 / 11 * width, (11 - 2.85) / 11 * width
    top, bottom = 0.55 / 4.5 * height, (4.5 - 0.6 - 0.83 - 0.1) / 4.5 * height
    blue = np.abs(image - to_rgb("#0072B2")).max(axis=2) < 0.02
    for share, probability in ((0.2, 0.75), (0.8, 0.25)):
        rows = np.flatnonzero(blue[:, round(left + share * (right - left))])
        assert (bottom - rows.mean()) / (bottom - top) == pytest.approx(probability, abs=0.01)

    film = image[round(height - (0.6 + 0.4) / 4.5 * height)]
    reds = [film[round(left + (i + 0.5) / 9 * (right - left)), 0] for i in range(9)]
    assert reds == pytest.approx([(i + 0.5) / 9 for i in range(9)], abs=0.04)


@pytest.mark.parametrize("windows", [1, 4, 500])
@pytest.mark.parametrize(
    "name", ["clip.mp4", "a_very_long_name_" * 12 + ".mp4", "$x$_{1}.mp4", "bad\udcff名.mp4"]
)
def test_no_text_is_cut_or_overlaps_another(windows: int, name: str) -> None:
    rows = torch.rand(windows, 6, generator=torch.Generator().manual_seed(0)).add(0.1)
    figure = timeline._picture(make((rows / rows.sum(1, keepdim=True)).tolist(), name), 5)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.canvas.draw()  # which puts the axis labels in their places
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    texts = [text for text in figure.findobj(lambda artist: hasattr(artist, "get_text")) if text.get_text()]
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in texts if text.get_visible()]
    assert len(boxes) > 12
    page = figure.bbox
    for text, box in boxes:
        assert box.x0 >= 0, text
        assert box.y0 >= 0, text
        assert box.x1 <= page.x1, text
        assert box.y1 <= page.y1, text
    for i, (text, box) in enumerate(boxes):
        for other, another in boxes[:i]:
            assert not box.overlaps(another) or (text, other) == ("0", "0"), (text, other)


@pytest.mark.parametrize(("ending", "magic"), [("png", b"\x89PNG"), ("SVG", b"<?xml"), ("pdf", b"%PDF")])
def test_each_format_is_written_without_pyplot(
    tmp_path: Path, ending: str, magic: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # importing it now fails
    timeline.draw_timeline(make([[1.0]]), tmp_path / f"a.{ending}")
    assert (tmp_path / f"a.{ending}").read_bytes().startswith(magic)
    assert [path.name for path in tmp_path.iterdir()] == [f"a.{ending}"]


def test_a_single_frame_has_a_picture_too(tmp_path: Path) -> None:
    result = dataclasses.replace(make([[0.9, 0.1]]), spans=(Span(0.0, 0.0),))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        timeline.draw_timeline(result, tmp_path / "frame.png")
    colour = np.isclose(pixels(tmp_path / "frame.png"), to_rgb("#0072B2"), atol=0.01).all(axis=2)
    assert colour.any(axis=0).sum() > 1000  # a line from end to end


def test_a_class_that_is_never_likely_is_left_out() -> None:
    figure = timeline._picture(make([[0.9, 0.06, 0.04], [0.99, 0.0, 0.01]]), 5)
    texts = " ".join(text.get_text().replace("\n", " ") for text in figure.texts)
    assert LABELS[0] in texts
    assert LABELS[1] in texts
    assert LABELS[2] not in texts


def test_a_failed_write_leaves_the_old_picture_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "a.png"
    target.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="no space left"):
        timeline.draw_timeline(make([[1.0]]), target)
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("name", ["a.gif", "a", "a.jpg"])
def test_other_formats_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"\.png, \.svg, \.pdf"):
        timeline.check_target(tmp_path / name)


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotADirectoryError, match="missing"):
        timeline.check_target(tmp_path / "missing" / "a.png")
    (tmp_path / "a.png").mkdir()
    with pytest.raises(IsADirectoryError, match=r"a\.png"):
        timeline.check_target(tmp_path / "a.png")


@pytest.mark.parametrize("classes", [0, 6])
def test_the_number_of_classes_is_checked(tmp_path: Path, classes: int) -> None:
    with pytest.raises(ValueError, match=f"between 1 and 5, got {classes}"):
        timeline.draw_timeline(make([[1.0]]), tmp_path / "a.png", classes=classes)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (2.6, "0:03"), (59.7, "1:00"), (754, "12:34"), (3599.6, "1:00:00"), (45296, "12:34:56")],
)
def test_times_read_as_on_a_clock(seconds: float, text: str) -> None:
    assert timeline.format_time(seconds) == text
