"""From a file to classes: the arithmetic on a network simple enough to know, then the real thing."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from torch import Tensor
from waiting import PATIENCE, until

import fasti3d
from fasti3d import video, weights
from fasti3d.classification.classify import classify
from fasti3d.classification.film import Film
from fasti3d.classification.result import Classification, Span
from fasti3d.flow import stream
from fasti3d.flow.params import TVL1Params
from fasti3d.models import load_model
from fasti3d.utils import prefetch
from fasti3d.video.windows import covering_windows


class Brightness(fasti3d.I3D):
    """Two logits: the clip's mean brightness in [-1, 1], and its dropout's scale."""

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__(2, in_channels)
        self.labels = ("bright", "dropped")
        self.batches: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        assert x.is_floating_point()
        self.batches.append(len(x))
        ones = self.dropout(torch.ones(len(x), 64))
        return torch.stack([x.mean(dim=(1, 2, 3, 4)), ones.mean(dim=1)], dim=1)


@pytest.fixture(scope="session")
def model() -> Brightness:
    return Brightness().eval()  # type: ignore[return-value]


def write_video(path: Path, levels: list[int], rate: int = 25) -> Path:
    """A small lossless video of plain grey frames."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=Fraction(rate))
        stream.width, stream.height, stream.pix_fmt = 32, 32, "bgr0"
        for level in levels:
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), level, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="session")
def ramp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 frames at 25 frames a second that brighten from 0 to 198."""
    return write_video(tmp_path_factory.mktemp("video") / "ramp.mkv", [2 * i for i in range(100)])


def brightness(first: int, end: int) -> float:
    """Mean over the ramp's frames [first, end), in [-1, 1]."""
    return (first + end - 1) / 127.5 - 1


def test_windows_logits_and_times_of_a_known_video(ramp: Path, model: Brightness) -> None:
    result = classify(ramp, model=model, window=64, stride=32)
    assert result.frames == 100
    assert result.fps == 25.0
    assert [list(span) for span in result.spans] == [
        pytest.approx(pair) for pair in ([0.0, 2.56], [1.28, 3.84], [1.44, 4.0])
    ]
    expected = [brightness(0, 64), brightness(32, 96), brightness(36, 100)]
    assert result.logits[:, 0].tolist() == pytest.approx(expected, abs=1e-5)
    assert result.logits[:, 1].tolist() == [1.0, 1.0, 1.0]
    assert result.logits.dtype == torch.float32
    assert (result.device, result.dtype) == (torch.device("cpu"), torch.float32)
    assert result.warnings == ()
    assert result.frames_per_second == pytest.approx(100 / result.seconds)


def test_the_whole_video_is_the_softmax_of_the_mean_logits(ramp: Path, model: Brightness) -> None:
    result = classify(ramp, model=model, window=64, stride=32)
    mean = sum([brightness(0, 64), brightness(32, 96), brightness(36, 100)]) / 3
    first, second = result.top()
    assert (first.label, first.index, second.label, second.index) == ("dropped", 1, "bright", 0)
    assert second.logit == pytest.approx(mean, abs=1e-5)
    assert second.probability == pytest.approx(np.exp(mean) / (np.exp(mean) + np.e), abs=1e-5)
    assert [score.label for score in result.window_top(0, 1)] == ["dropped"]
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        result.top(0)


def test_the_network_itself_is_given_bytes(ramp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.dtype] = []

    def recorded(self: fasti3d.I3D, x: Tensor, names: tuple[str, ...]) -> dict[str, Tensor]:
        seen.append(x.dtype)
        return {name: torch.zeros(len(x), 2) for name in names}

    monkeypatch.setattr(fasti3d.I3D, "forward_endpoints", recorded)
    classify(ramp, model=fasti3d.I3D(2), batch=8)
    assert seen == [torch.uint8]


@pytest.mark.parametrize(("batch", "sizes"), [(None, [1, 1, 1]), (2, [2, 1]), (8, [3])])
def test_batches_do_not_change_the_result(
    ramp: Path, model: Brightness, batch: int | None, sizes: list[int]
) -> None:
    model.batches.clear()
    result = classify(ramp, model=model, batch=batch)
    assert model.batches == sizes
    assert result.logits[2, 0].item() == pytest.approx(brightness(36, 100), abs=1e-5)


def test_a_short_video_gives_one_window_and_counts_only_its_frames(tmp_path: Path, model: Brightness) -> None:
    path = write_video(tmp_path / "short.mkv", [100] * 5)
    result = classify(path, model=model)
    assert result.frames == 5
    assert [list(span) for span in result.spans] == [pytest.approx([0.0, 0.2])]
    assert result.logits[0, 0].item() == pytest.approx(100 / 127.5 - 1, abs=1e-5)


def test_the_rate_of_the_video_itself(tmp_path: Path, model: Brightness) -> None:
    path = write_video(tmp_path / "slow.mkv", [0] * 20, rate=10)
    assert classify(path, model=model).frames == 50
    native = classify(path, model=model, fps=None)
    assert (native.frames, native.fps) == (20, None)
    assert native.spans[0].end == pytest.approx(2.0)


def test_a_model_in_training_mode_runs_in_eval_mode_and_gets_its_modes_back(
    ramp: Path, model: Brightness
) -> None:
    model.train()
    model.Mixed_3b.eval()
    try:
        result = classify(ramp, model=model)
        assert result.logits[:, 1].tolist() == [1.0, 1.0, 1.0]  # dropout was off
        assert model.training
        assert model.dropout.training
        assert not model.Mixed_3b.training
        assert not model.Mixed_3b.b0.bn.training
    finally:
        model.eval()


def test_a_network_is_loaded_while_the_video_is_read(
    ramp: Path, model: Brightness, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    def windows(*arguments: Any, **options: Any) -> Iterator[video.Window]:
        for window in cut(*arguments, **options):
            made.append(window.index)
            yield window

    cut = covering_windows
    monkeypatch.setattr("fasti3d.classification.classify.covering_windows", windows)

    def load() -> Brightness:
        until(lambda: made == [0, 1])
        return model

    assert len(classify(ramp, model=load).spans) == 3
    with pytest.raises(OSError, match="no weights"):
        classify(ramp, model=Source(0, OSError("no weights"))().__next__)
    assert readers() == []


def test_a_class_without_a_name_is_called_by_its_number(ramp: Path) -> None:
    nameless = Brightness()
    nameless.labels = None
    assert classify(ramp, model=nameless).labels == ("class 0", "class 1")


def test_progress_counts_frames(ramp: Path, model: Brightness) -> None:
    done: list[int] = []
    classify(ramp, model=model, progress=done.append)
    assert done == [64, 96, 100]


def test_a_video_that_breaks_off_is_classified_with_a_warning(tmp_path: Path, model: Brightness) -> None:
    whole = write_video(tmp_path / "whole.mkv", [7 * i % 256 for i in range(200)])
    broken = tmp_path / "broken.mkv"
    broken.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    with pytest.warns(video.VideoWarning, match=r"broken\.mkv"):
        result = classify(broken, model=model)
    assert 64 < result.frames < 200
    assert len(result.warnings) == 1
    assert "broken.mkv" in result.warnings[0]
    with pytest.raises(video.VideoError, match=r"broken\.mkv"):
        classify(broken, model=model, strict=True)


def test_a_file_that_is_not_there(tmp_path: Path, model: Brightness) -> None:
    with pytest.raises(video.VideoError, match=r"nowhere\.mp4"):
        classify(tmp_path / "nowhere.mp4", model=model)


@pytest.mark.parametrize(
    ("argument", "value"), [("window", 8), ("stride", 0), ("batch", 0), ("fps", 0.0), ("fps", float("inf"))]
)
def test_an_argument_out_of_range_is_named(
    ramp: Path, model: Brightness, argument: str, value: float
) -> None:
    with pytest.raises(ValueError, match=f"{argument} must be .* got {value}"):
        classify(ramp, model=model, **{argument: value})  # type: ignore[arg-type]


def test_a_flow_network_is_refused(ramp: Path) -> None:
    with pytest.raises(ValueError, match=r"model must be a network of 3 channels .* got one of 2 channels"):
        classify(ramp, model=Brightness(in_channels=2))


def test_the_rgb_stream_alone_computes_no_flow(
    ramp: Path, model: Brightness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "tvl1_video", None)
    result = classify(ramp, model=model)
    assert result.streams.keys() == {"rgb"}
    assert torch.equal(result.streams["rgb"], result.logits)


# ---------------------------------------------------------------- the flow stream


@pytest.fixture
def flow_model() -> Brightness:
    return Brightness(in_channels=2)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[TVL1Params]:
    """A solver whose flow is the step of the grey level, 2 pixels in the ramp; and the parameters it got."""
    seen: list[TVL1Params] = []

    def solve(grey: Tensor, *, params: TVL1Params) -> Tensor:
        seen.append(params)
        return (grey[1:].float() - grey[:-1].float())[:, None].repeat(1, 2, 1, 1)

    monkeypatch.setattr(stream, "tvl1_video", solve)
    return seen


@pytest.mark.parametrize("batch", [None, 2])
def test_two_streams_are_summed(
    ramp: Path, model: Brightness, flow_model: Brightness, steps: list[TVL1Params], batch: int | None
) -> None:
    both = classify(ramp, model=model, flow_model=flow_model, streams="both", batch=batch)
    rgb = classify(ramp, model=model, batch=batch)
    assert both.streams.keys() == {"rgb", "flow"}
    assert torch.equal(both.streams["rgb"], rgb.logits)
    assert both.streams["flow"][:, 0].tolist() == pytest.approx([0.1] * 3)  # 2 of 20 pixels
    assert torch.equal(both.logits, both.streams["rgb"] + both.streams["flow"])
    assert (both.spans, both.frames, both.labels) == (rgb.spans, rgb.frames, rgb.labels)
    assert [p.time for p in both.film] == [p.time for p in rgb.film]
    assert all(torch.equal(a.image, b.image) for a, b in zip(both.film, rgb.film, strict=True))
    assert both.stream_top("rgb") == rgb.top()
    assert both.stream_top("flow")[0].logit == pytest.approx(1.0)
    assert set(steps) == {TVL1Params()}
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        both.stream_top("flow", 0)


def test_the_flow_stream_alone_loads_no_rgb_network(
    ramp: Path, flow_model: Brightness, steps: list[TVL1Params]
) -> None:
    result = classify(ramp, model="nowhere.pt", flow_model=flow_model, streams="flow")
    assert result.streams.keys() == {"flow"}
    assert torch.equal(result.streams["flow"], result.logits)
    assert result.logits[:, 0].tolist() == pytest.approx([0.1] * 3)
    assert len(result.film) > 32


def test_the_preset_and_the_parameters_reach_the_flow(
    ramp: Path, flow_model: Brightness, steps: list[TVL1Params]
) -> None:
    large = TVL1Params.preset("large-motion")
    result = classify(ramp, flow_model=flow_model, streams="flow", flow_preset="mediapipe", tvl1_params=large)
    assert set(steps) == {large}
    # trunc((2 + 20) / 40 * 255) = 140
    assert result.logits[:, 0].tolist() == pytest.approx([140 / 127.5 - 1] * 3, abs=1e-6)


def test_flow_without_a_model_says_where_to_get_one(ramp: Path, model: Brightness) -> None:
    for streams in ("flow", "both"):
        with pytest.raises(ValueError, match=f"'{streams}' needs flow_model: a checkpoint's path") as caught:
            classify(ramp, model=model, streams=streams)
        for name, entry in weights.registry().items():
            assert (name in str(caught.value)) == (entry.stream == "flow")
        assert "`fasti3d weights get pytorch-i3d-flow-imagenet`" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"streams": "depth"}, "streams must be one of rgb, flow, both, got 'depth'"),
        ({"streams": "rgb"}, "flow_model is given, but streams is 'rgb'"),
        ({"flow_preset": "raw"}, "readme, mediapipe, got 'raw'"),
        ({"window": 9}, "window must be at least 10 frames, .* with flow, got 9"),
        ({"flow_model": Brightness()}, "flow_model must be a network of 2 channels .* got one of 3 channels"),
        ({"flow_model": fasti3d.I3D(3, 2)}, "rgb has 2 and flow 3"),
        (
            {"flow_model": Brightness(2).double()},
            "one dtype, got cpu in torch.float32 and cpu in torch.float64",
        ),
    ],
)
def test_streams_that_cannot_be_are_refused(
    ramp: Path, model: Brightness, flow_model: Brightness, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        classify(ramp, **{"model": model, "flow_model": flow_model, "streams": "both", **options})


def test_both_models_keep_their_modes(
    ramp: Path, model: Brightness, flow_model: Brightness, steps: list[TVL1Params]
) -> None:
    flow_model.train()
    result = classify(ramp, model=model, flow_model=flow_model, streams="both")
    assert result.streams["flow"][:, 1].tolist() == [1.0] * 3  # dropout was off
    assert flow_model.training
    assert not model.training


def test_an_error_of_the_solver_stops_both_threads(
    ramp: Path, flow_model: Brightness, monkeypatch: pytest.MonkeyPatch
) -> None:
    def solve(grey: Tensor, *, params: TVL1Params) -> Tensor:
        raise RuntimeError("no flow today")

    monkeypatch.setattr(stream, "tvl1_video", solve)
    with pytest.raises(RuntimeError, match="no flow today"):
        classify(ramp, flow_model=flow_model, streams="flow")
    assert readers() == []


def test_flow_is_computed_while_the_network_runs(ramp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    solving = threading.Event()

    def solve(grey: Tensor, *, params: TVL1Params) -> Tensor:
        if len(grey) < 64:  # of a window after the first
            solving.set()
        return torch.zeros(len(grey) - 1, 2, *grey.shape[1:])

    class Waiting(Brightness):
        def forward(self, x: Tensor) -> Tensor:
            assert solving.wait(timeout=PATIENCE)
            return super().forward(x)

    monkeypatch.setattr(stream, "tvl1_video", solve)
    assert len(classify(ramp, flow_model=Waiting(2), streams="flow").spans) == 3


def test_a_short_video_has_flow_too(
    tmp_path: Path, model: Brightness, flow_model: Brightness, steps: list[TVL1Params]
) -> None:
    path = write_video(tmp_path / "short.mkv", [100, 104, 108])
    result = classify(path, model=model, flow_model=flow_model, streams="both")
    assert result.frames == 3
    assert result.streams["flow"][:, 0].tolist() == pytest.approx([0.2])


def test_logits_that_are_not_finite_are_an_error(ramp: Path) -> None:
    class Overflow(Brightness):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * float("inf")

    with pytest.raises(FloatingPointError, match="float32"):
        classify(ramp, model=Overflow())


def result_of(best: list[int], stride: float = 1.28) -> Classification:
    """A result whose windows of 2.56 s have these most likely classes, with probability 0.75."""
    logits = torch.full((len(best), 3), 0.125).log()
    for row, index in zip(logits, best, strict=True):
        row[index] = torch.tensor(0.75).log()
    return Classification(
        path=Path("v"),
        fps=25.0,
        frames=1,
        spans=tuple(Span(stride * i, stride * i + 2.56) for i in range(len(best))),
        logits=logits,
        labels=("a", "b", "c"),
        warnings=(),
        device=torch.device("cpu"),
        dtype=torch.float32,
        seconds=1.0,
        film=(),
    )


def test_segments_merge_neighbours_and_tile_the_video() -> None:
    segments = result_of([0, 0, 1, 0]).segments()
    assert [segment.label for segment in segments] == ["a", "b", "a"]
    edges = [0.0, 3.2, 4.48, 6.4]  # halfway between the middles 2.56 and 3.84, 3.84 and 5.12
    assert [segment.start for segment in segments] == pytest.approx(edges[:-1])
    assert [segment.end for segment in segments] == pytest.approx(edges[1:])
    assert [segment.probability for segment in segments] == pytest.approx([0.75] * 3)


def test_one_window_is_one_segment() -> None:
    (segment,) = result_of([2]).segments()
    assert (segment.label, segment.start, segment.end) == ("c", 0.0, 2.56)


def numbered(count: int, window: int = 64, stride: int = 32) -> Iterator[video.Window]:
    for index, start in enumerate(range(0, count, stride)):
        ids = torch.arange(start, start + window).to(torch.int32)
        frames = ids.view(torch.uint8).reshape(window, 1, 1, 4)[..., :3]
        yield video.Window(index, start, frames, tuple(i / 25 for i in range(start, start + window)))


@pytest.mark.parametrize("count", [64, 1000, 20000])
def test_the_film_is_bounded_and_even(count: int) -> None:
    film = Film(32)
    for window in numbered(count):
        film.add(window)
    pictures = film.frames()
    assert 32 <= len(pictures) < 64 if count > 64 else len(pictures) >= 32
    steps = {round((b.time - a.time) * 25) for a, b in pairwise(pictures)}
    assert len(steps) == 1
    assert pictures[0].time == 0.0
    for picture in pictures:  # each picture is the frame of its time, in storage of its own
        low, middle, high = picture.image.flatten().tolist()
        assert low + 256 * middle + 65536 * high == round(picture.time * 25)
        assert picture.image.untyped_storage().nbytes() == 3


class Source:
    """Counts up to an error or an end, and remembers how far it was asked and whether it was closed."""

    def __init__(self, count: int, error: Exception | None = None) -> None:
        self.made = 0
        self.closed_by: str | None = None
        self.count = count
        self.error = error

    def __call__(self) -> Iterator[int]:
        try:
            for i in range(self.count):
                self.made += 1
                yield i
            if self.error is not None:
                raise self.error
        finally:
            self.closed_by = threading.current_thread().name


def readers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if "read-ahead" in thread.name]


def test_reading_ahead_keeps_the_order_and_the_end() -> None:
    assert list(prefetch.read_ahead(Source(20)(), 2)) == list(range(20))
    assert list(prefetch.read_ahead(Source(0)(), 2)) == []
    assert readers() == []


def test_reading_ahead_is_bounded() -> None:
    source = Source(100)
    ahead = prefetch.read_ahead(source(), 2)
    until(lambda: source.made == 2)  # before any is asked for
    assert next(ahead) == 0
    until(lambda: source.made == 3)  # the one given and two more
    time.sleep(0.2)
    assert source.made == 3
    ahead.close()
    assert readers() == []
    assert source.closed_by is not None
    assert source.made == 3


def test_reading_ahead_carries_the_error_after_the_items() -> None:
    ahead = prefetch.read_ahead(Source(3, OSError("disk"))(), 2)
    assert [next(ahead), next(ahead), next(ahead)] == [0, 1, 2]
    with pytest.raises(OSError, match="disk"):
        next(ahead)
    assert readers() == []
    assert list(ahead) == []


@pytest.mark.parametrize("streams", ["rgb", "flow"])
def test_an_error_of_the_network_stops_the_readers(ramp: Path, steps: list[TVL1Params], streams: str) -> None:
    class Failing(Brightness):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("out of luck")

    flow_model = Failing(in_channels=2) if streams == "flow" else None
    with pytest.raises(RuntimeError, match="out of luck"):
        classify(ramp, model=Failing(), flow_model=flow_model, streams=streams, window=10, stride=1)
    assert readers() == []


@pytest.fixture(scope="session")
def kinetics(kinetics_weights: Path) -> fasti3d.I3D:
    return load_model(kinetics_weights, device="cpu", dtype="float32")


def test_the_first_160_frames_of_a_real_clip(shared_data: Path, kinetics: fasti3d.I3D) -> None:
    """With these weights, the network of another implementation gives 0.994."""
    clip = shared_data / "videos" / "clean_and_jerk.mp4"
    window = next(video.windows(clip, window=160, stride=160, fps=None))
    with torch.no_grad():
        probabilities = kinetics(video.to_clip(window.frames)[None]).softmax(1)[0]
    assert kinetics.labels is not None
    assert kinetics.labels[probabilities.argmax()] == "clean and jerk"
    assert 0.9935 < probabilities.max() <= 0.9945
