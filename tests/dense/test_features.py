"""Features in chunks against those of one pass."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
import torch
from i3d_making import make_i3d, make_warm_i3d, ordinary, random_clip
from tolerances import assert_close
from torch import Tensor, nn

from fasti3d import I3D, dense, network, reference, video
from fasti3d.flow.encoding import to_flow_clip
from fasti3d.inputs import as_floats

TRUNK = tuple(network.TRUNK)
FEATURES = "Mixed_5c"

pytestmark = pytest.mark.usefixtures("narrow")


@pytest.fixture(scope="module")
def warm(narrow: None) -> I3D:
    return make_warm_i3d()


def one_pass(model: reference.I3D, x: Tensor, features: str = FEATURES) -> Tensor:
    with torch.no_grad():
        if features in TRUNK:
            return model.forward_endpoints(x, [features])[features]
        pooled = model.extract_features(x)
        return pooled if features == "pooled" else model.logits(pooled[..., None, None]).flatten(2)


def plain(model: I3D) -> reference.I3D:
    """The same weights in the plain network."""
    other = reference.I3D(model.num_classes, model.in_channels)
    other.load_state_dict(model.state_dict())
    return other.eval()


@pytest.mark.parametrize("frames", [1, 2, 7, 8, 9, 10, 16, 17, *range(33, 57), 80])
def test_chunks_give_what_one_pass_gives(warm: I3D, runs: list[torch.dtype], frames: int) -> None:
    x = random_clip(1, 3, frames, 32, 32, seed=frames)
    chunk = (8, 13, 32)[frames % 3]  # every remainder by 8 meets every chunk
    found = dense.dense_clip(warm, x, chunk=chunk)
    assert not runs  # the network never ran as a whole
    assert_close("i3d", found, one_pass(warm, x))


@pytest.mark.parametrize("name", TRUNK)
@pytest.mark.parametrize("frames", [21, 24])
def test_every_endpoint(warm: I3D, name: str, frames: int) -> None:
    x = random_clip(1, 3, frames, 33, 40)
    found = dense.dense_clip(warm, x, features=name, chunk=6)
    assert_close("i3d", found, ordinary(warm, x, name)[name])


@pytest.mark.parametrize("chunk", [1, 3, 8, 64, 1000])
def test_the_chunk_does_not_matter(warm: I3D, chunk: int) -> None:
    x = random_clip(2, 3, 43, 32, 33)
    assert_close("i3d", dense.dense_clip(warm, x, chunk=chunk), one_pass(warm, x))


def test_a_chunk_of_everything_is_one_pass(warm: I3D) -> None:
    x = random_clip(1, 3, 26, 40, 33)
    assert torch.equal(dense.dense_clip(warm, x, chunk=26), one_pass(warm, x))


def test_other_ways_of_padding_are_told_apart(warm: I3D) -> None:
    """What is compared would fail for features of a clip that is one frame longer or cut in two."""
    x = random_clip(1, 3, 64, 32, 32)
    whole = one_pass(warm, x)
    halves = torch.cat([one_pass(warm, half) for half in x.split(32, dim=2)], dim=2)
    longer = one_pass(warm, torch.cat((x, x[:, :, -1:]), dim=2))[:, :, :8]
    for other in (halves, longer):
        with pytest.raises(AssertionError, match="above"):
            assert_close("i3d", other, whole)


@pytest.mark.parametrize("features", ["pooled", "logits"])
def test_the_head(warm: I3D, features: str) -> None:
    x = random_clip(1, 3, 17, 193, 200)
    found = dense.dense_clip(warm, x, features=features, chunk=8)
    assert found.shape == (1, {"pooled": 96, "logits": 7}[features], 2)
    assert_close("i3d", found, one_pass(warm, x, features))
    if features == "logits":
        with torch.no_grad():
            assert_close("i3d", found.mean(dim=2), warm(x))


def test_the_plain_network() -> None:
    model = plain(make_i3d())
    x = random_clip(1, 3, 29, 32, 32)
    found = dense.dense_clip(model, x, chunk=8)
    assert_close("i3d", found, one_pass(model, x))


def test_hooks_are_not_skipped(warm: I3D) -> None:
    model = make_i3d()
    lengths: list[int] = []
    model.Mixed_4b.b0.register_forward_hook(lambda module, args, y: lengths.append(y.shape[2]))
    x = random_clip(1, 3, 40, 32, 32)
    assert_close("i3d", dense.dense_clip(model, x, chunk=16), one_pass(warm, x))
    assert sum(lengths) >= 10


@pytest.mark.isa
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    model = make_i3d().to(dtype)
    x = random_clip(1, 3, 42, 32, 32).to(dtype)
    for features in (FEATURES, "Mixed_4c"):
        found = dense.dense_clip(model, x, features=features, chunk=16)
        assert found.dtype == dtype
        assert_close("i3d", found, one_pass(model, x, features))


@pytest.mark.isa
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_head_in_half_precision(dtype: torch.dtype) -> None:
    model = make_i3d().to(dtype)
    wide = copy.deepcopy(model).float()
    x = random_clip(1, 3, 10, 193, 193).to(dtype)
    for features in ("pooled", "logits"):
        found = dense.dense_clip(model, x, features=features, chunk=8)
        assert found.dtype == dtype
        # Of the same rounded weights in float32: another pass in half precision would round by itself.
        assert_close("i3d", found, one_pass(wide, x.float(), features))


@pytest.mark.isa
def test_autocast(warm: I3D) -> None:
    x = random_clip(1, 3, 30, 32, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = dense.dense_clip(warm, x, chunk=8)
        expected = one_pass(warm, x)
    assert found.dtype == torch.bfloat16
    assert_close("i3d", found, expected)


def test_layouts_and_gradients_do_not_matter(warm: I3D) -> None:
    x = random_clip(1, 3, 21, 32, 40)
    expected = dense.dense_clip(warm, x, chunk=8)
    for other in (
        x.contiguous(memory_format=torch.channels_last_3d),
        x.transpose(3, 4).contiguous().transpose(3, 4),
        x.clone().requires_grad_(),
    ):
        before = other.detach().clone()
        found = dense.dense_clip(warm, other, chunk=8)
        assert not found.requires_grad
        assert torch.equal(found, expected)
        assert torch.equal(other.detach(), before)


def test_clips_of_bytes(warm: I3D) -> None:
    x = torch.randint(0, 256, (1, 21, 32, 40, 3), dtype=torch.uint8).permute(0, 4, 1, 2, 3)
    expected = dense.dense_clip(warm, as_floats(x, torch.float32), chunk=8)
    assert torch.equal(dense.dense_clip(warm, x, chunk=8), expected)


def test_runs_are_repeatable_and_do_not_disturb_each_other(warm: I3D) -> None:
    first, second = random_clip(1, 3, 40, 32, 32), random_clip(1, 3, 40, 32, 32, seed=1)
    expected = [dense.dense_clip(warm, x, chunk=16) for x in (first, second)]
    streams = [dense.dense_stream(warm, x.split(16, dim=2), 40) for x in (first, second)]
    found = [[part for _, part in parts] for parts in zip(*streams, strict=True)]
    for i in range(2):
        assert torch.equal(torch.cat([parts[i] for parts in found], dim=2), expected[i])


@pytest.mark.gpu
def test_on_a_gpu(warm: I3D) -> None:
    model = make_i3d().to("cuda", torch.float16)
    x = random_clip(2, 3, 75, 64, 64)
    found = dense.dense_clip(model, x.to("cuda", torch.float16), chunk=16)
    assert_close("i3d_half", found.cpu(), one_pass(warm, x))
    frames = frames_of(42)
    there = joined(dense.dense_features(model, frames, 42, chunk=16))
    assert there.is_cuda
    assert_close("i3d_half", there.cpu(), one_pass(warm, video.to_clip(frames)[None])[0])


# ---------------------------------------------------------------- frames as they come


def frames_of(count: int, height: int = 32, width: int = 40) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count, height, width, 3), dtype=torch.uint8, generator=generator)


def joined(found: Iterator[tuple[int, Tensor]]) -> Tensor:
    parts: list[Tensor] = []
    for first, part in found:
        assert first == sum(p.shape[1] for p in parts)
        assert part.shape[1] > 0
        parts.append(part)
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize("count", [3, 41, 42])
def test_frames_one_by_one_and_some_at_a_time(warm: I3D, count: int) -> None:
    frames = frames_of(count)
    expected = dense.dense_clip(warm, video.to_clip(frames)[None], chunk=16)[0]
    for items in (frames, frames.split(5), (*frames[:2], frames[2:])):
        assert torch.equal(joined(dense.dense_features(warm, items, count, chunk=16)), expected)


def test_the_flow_stream() -> None:
    model = make_i3d(in_channels=2)
    flow = random_clip(22, 2, 32, 33)
    expected = one_pass(model, to_flow_clip(flow)[None])[0]
    assert_close("i3d", joined(dense.dense_features(model, flow, 22, chunk=8)), expected)
    encoded = ((flow + 1) * 127.5).to(torch.uint8)
    expected = one_pass(model, to_flow_clip(encoded)[None])[0]
    assert_close("i3d", joined(dense.dense_features(model, encoded, 22, chunk=8)), expected)


def test_features_come_while_frames_do(warm: I3D) -> None:
    asked = 0
    (frame,) = frames_of(1)

    def frames() -> Iterator[Tensor]:
        nonlocal asked
        while True:
            asked += 1
            yield frame

    first, part = next(dense.dense_features(warm, frames(), 10**6, chunk=16))
    assert first == 0
    last = dense.support(FEATURES, 10**6)[part.shape[1] - 1]
    assert last.seen_end <= asked < last.seen_end + 2 * 16


def test_frames_may_be_overwritten_once_they_are_taken(warm: I3D) -> None:
    pieces = video.to_clip(frames_of(50))[None].split(10, dim=2)

    def reused() -> Iterator[Tensor]:
        piece = torch.empty_like(pieces[0])
        for values in pieces:
            yield piece.copy_(values)

    found = torch.cat([part for _, part in dense.dense_stream(warm, reused(), 50)], dim=2)
    assert torch.equal(found, dense.dense_clip(warm, torch.cat(pieces, dim=2), chunk=10))


@pytest.mark.parametrize(("said", "there"), [(20, 19), (19, 20), (20, 0), (16, 24)])
def test_a_wrong_total_is_an_error(warm: I3D, said: int, there: int) -> None:
    stream = dense.dense_features(warm, frames_of(there), said, chunk=8)
    what = "there are more" if there > said else f"there are {there}"
    with pytest.raises(dense.FrameCountError, match=f"got {said}, but {what}"):
        list(stream)


def test_bad_arguments_are_refused_at_the_call(warm: I3D) -> None:
    frames = frames_of(9)
    with pytest.raises(TypeError, match=r"got Linear"):
        dense.dense_features(nn.Linear(1, 1), frames, 9)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"got Linear"):
        dense.dense_clip(nn.Linear(1, 1), random_clip(1, 3, 9, 32, 32))  # type: ignore[arg-type]
    training = make_i3d()
    training.Mixed_3b.b0.bn.train()
    with pytest.raises(ValueError, match="model must be in eval mode"):
        dense.dense_features(training, frames, 9)
    with pytest.raises(ValueError, match=r"features must be one of .*, got 'Logits'"):
        dense.dense_features(warm, frames, 9, features="Logits")
    with pytest.raises(ValueError, match="chunk must be at least 1 frame, got 0"):
        dense.dense_features(warm, frames, 9, chunk=0)
    with pytest.raises(ValueError, match="chunk must be at least 1 frame, got -8"):
        dense.dense_clip(warm, random_clip(1, 3, 9, 32, 32), chunk=-8)
    with pytest.raises(ValueError, match="at least 1 frames, got 0"):
        dense.dense_features(warm, frames, 0)
    with pytest.raises(ValueError, match="pooled needs at least 9 frames, got 8"):
        dense.dense_features(warm, frames, 8, features="pooled")
    with pytest.raises(ValueError, match=r"3 channels \(RGB\) or 2 \(flow\), got 5: use dense_clip"):
        dense.dense_features(make_i3d(in_channels=5), frames, 9)


def test_bad_frames_are_refused(warm: I3D) -> None:
    small = frames_of(9)
    cases: list[tuple[list[Tensor], str, str]] = [
        ([small[0], small[0, :5]], FEATURES, r"one size, got \(5, 40, 3\) at index 1 after \(32, 40, 3\)"),
        ([small[0, 0]], FEATURES, r"frames must be \(H, W, 3\) or some of these, got shape \(40, 3\)"),
        ([small[0].float()], FEATURES, "uint8 of shape"),
        ([small], "pooled", "at least 193x193 pixels for pooled, got 32x40"),
    ]
    for frames, features, message in cases:
        with pytest.raises(ValueError, match=message):
            list(dense.dense_features(warm, frames, 9, features=features))
    pieces = [random_clip(1, 3, 4, 32, 32), random_clip(1, 3, 5, 32, 40)]
    with pytest.raises(ValueError, match=r"one \(N, C, H, W\), got \(1, 3, 32, 40\) after \(1, 3, 32, 32\)"):
        list(dense.dense_stream(warm, pieces, 9))
    with pytest.raises(ValueError, match="x must be finite"):
        dense.dense_clip(warm, torch.full((1, 3, 9, 32, 32), torch.nan))
    with pytest.raises(ValueError, match="but the weights are"):
        dense.dense_clip(warm, random_clip(1, 3, 9, 32, 32).double())


def test_the_consumers_gradient_mode_is_its_own(warm: I3D) -> None:
    assert torch.is_grad_enabled()
    for _ in dense.dense_features(warm, frames_of(20), 20, chunk=8):
        assert torch.is_grad_enabled()


# ---------------------------------------------------------------- long and real videos

MEMORY = """
import resource, sys
import torch
from fasti3d import dense
from i3d_making import make_i3d

torch.set_num_threads(1)
frame = torch.zeros(64, 64, 3, dtype=torch.uint8)
total = int(sys.argv[1])
model = make_i3d()
for _ in dense.dense_features(model, (frame for _ in range(total)), total, features="Mixed_3b", chunk=32):
    pass
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_video() -> None:
    """Of 1,000 more frames the input is 50 MB, and the largest map of the network 130 MB."""
    pytest.importorskip("resource")

    def peak(frames: int) -> float:
        done = subprocess.run(
            [sys.executable, "-c", MEMORY, str(frames)],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONPATH": ":".join(sys.path)},
        )
        return int(done.stdout) * (1 if sys.platform == "darwin" else 1024) / 1e6

    assert peak(1100) - peak(100) < 20


def test_twenty_seconds_of_real_video(shared_data: Path) -> None:
    """Two clips one after another, 500 frames, small: the benchmark compares 224x224."""
    clips = (shared_data / "videos" / name for name in ("arm_wrestling.mp4", "flipping_pancake.mkv"))
    images = (frame.image for path in clips for frame in video.read_frames(path, resize=128, crop=112))
    frames = torch.stack(list(islice(images, 500)))
    model = make_warm_i3d()
    expected = one_pass(model, video.to_clip(frames)[None])[0]
    found = joined(dense.dense_features(model, frames, len(frames)))
    assert_close("i3d", found, expected)
    assert found.shape == (96, 63, 4, 4)
