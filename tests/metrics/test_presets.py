"""What becomes of frames before the network."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fasti3d.metrics import presets
from fasti3d.metrics.presets import PRESETS, find_preset, prepare

# Places are float32, as in both frameworks: of 300 pixels to 2e-5, times the contrast between two of 2.
PLACES = 5e-5


def clip(height: int, width: int) -> Tensor:
    """uint8 noise (1, 2, 3, H, W)."""
    random = np.random.default_rng(height * width)
    return torch.from_numpy(random.integers(0, 256, (1, 2, 3, height, width), np.uint8))


def scaled(image: np.ndarray, height: int, width: int, *, half_pixel: bool) -> np.ndarray:
    """Bilinear, pixel by pixel, with TensorFlow's or PyTorch's idea of where a pixel is."""

    def places(length: int, size: int) -> list[tuple[int, int, float]]:
        found = []
        for i in range(size):
            at = (i + 0.5) * length / size - 0.5 if half_pixel else i * length / size
            at = max(at, 0.0)
            low = int(at)
            found.append((low, min(low + 1, length - 1), at - low))
        return found

    rows, columns = places(image.shape[0], height), places(image.shape[1], width)
    result = np.empty((height, width))
    for y, (top, bottom, down) in enumerate(rows):
        for x, (left, right, along) in enumerate(columns):
            upper = image[top, left] * (1 - along) + image[top, right] * along
            lower = image[bottom, left] * (1 - along) + image[bottom, right] * along
            result[y, x] = upper * (1 - down) + lower * down
    return result


def test_tensorflow_s_own_example_of_its_old_bilinear() -> None:
    image = torch.tensor([[1.0, 2.0], [3.0, 4.0]])[None, None]
    found = presets._scale_tf1(presets._scale_tf1(image, 3, 4), 2, 4)[0, 0]
    assert found.tolist() == [[1, 1.5, 2, 2], [2, 2.5, 3, 3], [3, 3.5, 4, 4], [3, 3.5, 4, 4]]


@pytest.mark.parametrize("size", [(64, 48), (300, 231)])
@pytest.mark.parametrize("name", ["tf", "cd-fvd"])
def test_squashing_to_224(name: str, size: tuple[int, int]) -> None:
    x = clip(*size)
    found = prepare(x, 0, 255, PRESETS[name])
    assert found.shape == (1, 3, 2, 224, 224)
    assert found.dtype == torch.float32
    expected = scaled(x[0, 1, 2].double().numpy(), 224, 224, half_pixel=PRESETS[name].half_pixel)
    assert np.abs(found[0, 2, 1].numpy() - (2 * expected / 255 - 1)).max() < PLACES


@pytest.mark.parametrize("name", PRESETS)
def test_large_frames_are_scaled_a_few_at_a_time(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = clip(50, 67) / 255
    expected = prepare(x, 0, 1, PRESETS[name])
    monkeypatch.setattr(presets, "_MAX_BYTES", 1)
    scaled_at_once: list[int] = []
    prepare_some = presets._prepare

    def spy(frames: Tensor, *arguments: Any) -> None:
        scaled_at_once.append(len(frames))
        prepare_some(frames, *arguments)

    monkeypatch.setattr(presets, "_prepare", spy)
    assert torch.equal(prepare(x, 0, 1, PRESETS[name]), expected)
    assert scaled_at_once == [1, 1]


@pytest.mark.parametrize(("height", "width", "large"), [(64, 49, (293, 224)), (50, 67, (224, 301))])
@pytest.mark.parametrize("name", ["stylegan-v", "videogpt"])
def test_centre_crop_of_the_short_side_scaled(
    name: str, height: int, width: int, large: tuple[int, int]
) -> None:
    x = clip(height, width)
    found = prepare(x, 0, 255, PRESETS[name])
    expected = scaled(x[0, 0, 1].double().numpy(), *large, half_pixel=True)
    top, left = ((side - 224) // 2 for side in large)
    expected = expected[top : top + 224, left : left + 224]
    assert np.abs(found[0, 1, 0].numpy() - (2 * expected / 255 - 1)).max() < PLACES


@pytest.mark.parametrize("name", PRESETS)
def test_of_the_right_size_nothing_is_scaled(name: str) -> None:
    x = clip(224, 224)
    assert torch.equal(prepare(x, 0, 255, PRESETS[name])[0, 2], x[0, :, 2].float() * (2 / 255) - 1)


def test_squares_are_rounded_up_as_the_authors_do() -> None:
    side = next(n for n in range(8, 500) if n * (224 / n) > 224)
    assert prepare(clip(side, side), 0, 255, PRESETS["stylegan-v"]).shape[3:] == (224, 224)


@pytest.mark.parametrize("limits", [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_floats_are_read_in_their_range(limits: tuple[float, float], dtype: torch.dtype) -> None:
    low, high = limits
    x = clip(30, 40)
    floats = (x.double() / 255 * (high - low) + low).to(dtype)
    found = prepare(floats, low, high, PRESETS["tf"])
    exact = 2.0**-9 if dtype == torch.float16 else 1e-6
    assert (found - prepare(x, 0, 255, PRESETS["tf"])).abs().max() < exact


def test_videogpt_truncates_to_8_bits() -> None:
    steps = torch.tensor([0.0, 0.0039, 0.00393, 0.5, 0.9999, 1.0])
    x = steps.view(1, 1, 1, 1, 6).expand(1, 2, 3, 6, 6)
    eight = (x * 255).to(torch.uint8)
    assert eight[0, 0, 0, 0].tolist() == [0, 0, 1, 127, 254, 255]
    videogpt = PRESETS["videogpt"]
    assert torch.equal(prepare(x, 0, 1, videogpt), prepare(eight, 0, 255, videogpt))
    assert not torch.equal(prepare(x, 0, 1, videogpt), prepare(x, 0, 1, PRESETS["stylegan-v"]))
    overshot = prepare(x - 1e-4, 0, 1, videogpt)
    assert overshot.min() == -1


def test_presets_are_what_they_are_published_as() -> None:
    found = {name: (p.crop, p.half_pixel, p.eight_bit, p.bn_eps, p.unbiased) for name, p in PRESETS.items()}
    assert found == {
        "tf": (False, False, False, 1e-3, True),
        "stylegan-v": (True, True, False, 1e-3, True),
        "videogpt": (True, True, True, 1e-5, True),
        "cd-fvd": (False, True, False, 1e-5, False),
    }
    with pytest.raises(dataclasses.FrozenInstanceError):
        PRESETS["tf"].unbiased = False  # type: ignore[misc]
    with pytest.raises(ValueError, match="tf, stylegan-v, videogpt, cd-fvd, got 'TF'"):
        find_preset("TF")
