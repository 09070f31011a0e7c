"""Grey frames as OpenCV's, and the two encodings of flow, value by value."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fasti3d.flow import encode_mediapipe, encode_readme, to_flow_clip, to_grey

VALUES = [-1e6, -20.1, -20.0, -19.9, -0.1, 0.0, 0.05, 0.1, 10.0, 19.9, 20.0, 20.1, 1e6]


def flow_of(values: list[float]) -> np.ndarray:
    """(1, 2, 1, N): the values as x, and negated as y."""
    return np.array([values, [-v for v in values]], np.float32)[None, :, None]


def test_grey_is_opencv_s_for_every_colour() -> None:
    cv2 = pytest.importorskip("cv2")
    blues, greens = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    for red in range(256):
        image = np.stack((np.full_like(greens, red), greens, blues), axis=-1)
        assert np.array_equal(to_grey(image), cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))


def test_grey_of_known_colours() -> None:
    colours = np.array(
        [[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255], [77, 77, 77]], np.uint8
    )
    assert to_grey(colours[None]).tolist() == [[0, 255, 76, 150, 29, 77]]


def test_grey_of_any_batch_and_kind() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 3, 5, 7, 3), np.uint8)
    grey = to_grey(frames)
    assert grey.shape == (2, 3, 5, 7)
    assert grey.dtype == np.uint8
    assert np.array_equal(to_grey(frames[1, 2]), grey[1, 2])
    assert torch.equal(to_grey(torch.from_numpy(frames)), torch.from_numpy(grey))
    planes = torch.from_numpy(frames[0]).permute(0, 3, 1, 2).contiguous()
    assert torch.equal(to_grey(planes.permute(0, 2, 3, 1)), torch.from_numpy(grey[0]))


@pytest.mark.parametrize("frames", [np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)])
def test_grey_of_other_arrays_is_refused(frames: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"uint8 of shape \(\.\.\., H, W, 3\)"):
        to_grey(frames)


def test_readme() -> None:
    flow = flow_of(VALUES)
    encoded = encode_readme(flow)
    assert encoded.dtype == np.float32
    assert encoded.shape == flow.shape
    wanted = np.array([min(max(v, -20.0), 20.0) / 20 for v in VALUES], np.float32)
    assert np.array_equal(encoded[0, 0, 0], wanted)
    assert np.array_equal(encoded[0, 1, 0], -wanted)


def test_mediapipe() -> None:
    encoded = encode_mediapipe(flow_of(VALUES))
    assert encoded.dtype == np.uint8
    assert encoded[0, 0, 0].tolist() == [0, 0, 0, 0, 126, 127, 127, 128, 191, 254, 255, 255, 255]
    values = np.linspace(-25, 25, 5001, dtype=np.float32)
    got = encode_mediapipe(np.stack((values, values))[:, None])[0, 0]
    wanted = np.trunc((np.clip(values.astype(float), -20, 20) + 20) / 40 * 255)
    assert np.abs(got - wanted).max() <= 1  # where the exact value is a whole number
    assert (got != wanted).mean() < 1e-2


def test_both_end_as_the_network_s_input() -> None:
    flow = np.random.default_rng(0).normal(size=(5, 2, 6, 7)).astype(np.float32) * 12
    readme, mediapipe = to_flow_clip(encode_readme(flow)), to_flow_clip(encode_mediapipe(flow))
    for clip in (readme, mediapipe):
        assert clip.shape == (2, 5, 6, 7)
        assert clip.dtype == np.float32
        assert np.abs(clip).max() <= 1
    assert np.array_equal(readme, np.clip(flow, -20, 20).transpose(1, 0, 2, 3) / np.float32(20))
    # Bytes are a step of 2 / 255 wide, and cut off downwards.
    assert (mediapipe - readme).min() >= -2 / 255 - 1e-6
    assert (mediapipe - readme).max() <= 1e-6
    ends = to_flow_clip(np.array([0, 255], np.uint8).reshape(1, 2, 1, 1))
    assert ends.ravel().tolist() == [-1, 1]


def test_batches_and_kinds_agree() -> None:
    flow = torch.randn(3, 4, 2, 5, 6, generator=torch.Generator().manual_seed(0)) * 15
    for encode in (encode_readme, encode_mediapipe):
        clips = to_flow_clip(encode(flow))
        assert clips.shape == (3, 2, 4, 5, 6)
        assert torch.equal(clips[1], to_flow_clip(encode(flow[1])))
        assert np.array_equal(to_flow_clip(encode(flow.numpy())), clips.numpy())
        assert torch.equal(encode(flow.double()), encode(flow))


def test_flow_in_pixels_is_refused_as_a_clip() -> None:
    with pytest.raises(ValueError, match="encode_readme"):
        to_flow_clip(flow_of([0.5, 3.0]))
    with pytest.raises(ValueError, match="encode_readme"):
        to_flow_clip(flow_of([np.nan]))


def test_a_clip_compiles_as_a_whole() -> None:
    flow = encode_readme(torch.randn(2, 2, 5, 6))
    compiled = torch.compile(to_flow_clip, fullgraph=True, backend="eager")
    assert torch.equal(compiled(flow), to_flow_clip(flow))


@pytest.mark.parametrize("function", [encode_readme, encode_mediapipe, to_flow_clip])
def test_other_shapes_are_refused(function) -> None:
    with pytest.raises(ValueError, match=r"2, H, W\).*got \(3, 4, 5\)"):
        function(np.zeros((3, 4, 5), np.float32))


def test_a_single_flow_is_no_clip() -> None:
    with pytest.raises(ValueError, match=r"\(\.\.\., T, 2, H, W\), got \(2, 4, 5\)"):
        to_flow_clip(np.zeros((2, 4, 5), np.float32))
