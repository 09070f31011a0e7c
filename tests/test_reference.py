"""The plain network against formulations of its own: brute-force windows, a literal shape table."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fasti3d import network
from fasti3d.reference import I3D, BatchNorm3d, MaxPool3dSame, Mixed, Unit3D

# Kernels and strides that I3D uses, on sizes from a single sample to more than a window.
WINDOWS = [
    ((7, 7, 7), (2, 2, 2)),
    ((3, 3, 3), (1, 1, 1)),
    ((1, 3, 3), (1, 2, 2)),
    ((3, 3, 3), (2, 2, 2)),
    ((2, 2, 2), (2, 2, 2)),
    ((1, 1, 1), (1, 1, 1)),
]
SIZES = [(1, 1, 1), (2, 3, 4), (5, 6, 7), (8, 9, 3), (9, 2, 5), (4, 4, 4)]

# (channels, T, H, W) of every endpoint for a 64x224x224 clip, from the paper's network.
TABLE = {
    "Conv3d_1a_7x7": (64, 32, 112, 112),
    "MaxPool3d_2a_3x3": (64, 32, 56, 56),
    "Conv3d_2b_1x1": (64, 32, 56, 56),
    "Conv3d_2c_3x3": (192, 32, 56, 56),
    "MaxPool3d_3a_3x3": (192, 32, 28, 28),
    "Mixed_3b": (256, 32, 28, 28),
    "Mixed_3c": (480, 32, 28, 28),
    "MaxPool3d_4a_3x3": (480, 16, 14, 14),
    "Mixed_4b": (512, 16, 14, 14),
    "Mixed_4c": (512, 16, 14, 14),
    "Mixed_4d": (512, 16, 14, 14),
    "Mixed_4e": (528, 16, 14, 14),
    "Mixed_4f": (832, 16, 14, 14),
    "MaxPool3d_5a_2x2": (832, 8, 7, 7),
    "Mixed_5b": (832, 8, 7, 7),
    "Mixed_5c": (1024, 8, 7, 7),
    "Features": (1024, 7),
    "Logits": (400,),
    "Predictions": (400,),
}


def source_indices(size: int, kernel: int, stride: int) -> np.ndarray:
    """[output, tap] -> input index, found by search: the least padding with which every window fits.

    Windows start every ``stride`` samples, one for each started stride of the input; half of the
    padding, rounded down, is in front. Indices outside [0, size) are padding.
    """
    outputs = len(range(0, size, stride))
    padding = next(p for p in itertools.count() if p + size >= (outputs - 1) * stride + kernel)
    return np.array([[o * stride + tap - padding // 2 for tap in range(kernel)] for o in range(outputs)])


def windows(
    x: np.ndarray, kernel: tuple[int, int, int], stride: tuple[int, int, int], fill: float
) -> np.ndarray:
    """(N, C, T, H, W) -> (N, C, T', H', W', taps), with ``fill`` wherever a window leaves the input."""
    t, h, w = (source_indices(size, k, s) for size, k, s in zip(x.shape[2:], kernel, stride, strict=True))
    shape = (len(t), len(h), len(w))
    out = np.full((*x.shape[:2], *shape, *kernel), fill)
    for place in np.ndindex(*shape, *kernel):
        source = (t[place[0], place[3]], h[place[1], place[4]], w[place[2], place[5]])
        if all(0 <= i < size for i, size in zip(source, x.shape[2:], strict=True)):
            out[(..., *place)] = x[(..., *source)]
    return out.reshape(*out.shape[:5], -1)


def random_clip(*shape: int, seed: int = 0) -> Tensor:
    return torch.empty(shape).uniform_(-1, 1, generator=torch.Generator().manual_seed(seed))


def shuffled_statistics(module: nn.Module, seed: int = 0) -> None:
    """Gives every batch norm statistics and an affine map that a wrong fold or epsilon would show."""
    generator = torch.Generator().manual_seed(seed)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm3d):
            for tensor, low, high in (
                (norm.running_mean, -0.5, 0.5),
                (norm.running_var, 0.002, 0.5),
                (norm.weight, 0.5, 1.5),
                (norm.bias, -0.5, 0.5),
            ):
                nn.init.uniform_(tensor, low, high, generator=generator)


@torch.no_grad()
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(("kernel", "stride"), WINDOWS, ids=str)
def test_unit_is_windows_times_weights_then_batch_norm_then_relu(
    kernel: tuple[int, int, int], stride: tuple[int, int, int], size: tuple[int, int, int]
) -> None:
    torch.manual_seed(0)
    unit = Unit3D(2, 3, kernel, stride)
    shuffled_statistics(unit)
    unit = unit.double().eval()
    x = random_clip(2, 2, *size).double()

    w = unit.conv3d.weight.numpy().reshape(3, 2, -1)
    convolved = np.einsum("ncthwk,ock->nothw", windows(x.numpy(), kernel, stride, 0.0), w)
    mean, var, gamma, beta = (
        p.double().numpy().reshape(1, -1, 1, 1, 1)
        for p in (unit.bn.running_mean, unit.bn.running_var, unit.bn.weight, unit.bn.bias)
    )
    expected = np.maximum((convolved - mean) / np.sqrt(var + 1e-3) * gamma + beta, 0)

    assert (expected > 0).any()
    np.testing.assert_allclose(unit(x).numpy(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(("kernel", "stride"), WINDOWS[1:5], ids=str)
def test_pool_takes_the_largest_real_value(
    kernel: tuple[int, int, int], stride: tuple[int, int, int], size: tuple[int, int, int]
) -> None:
    x = random_clip(2, 3, *size) - 1.5  # all negative: a padding of zeros would win
    expected = windows(x.numpy(), kernel, stride, -np.inf).max(axis=-1)
    np.testing.assert_array_equal(MaxPool3dSame(kernel, stride)(x).numpy(), expected)


@torch.no_grad()
def test_mixed_concatenates_its_branches_in_order() -> None:
    block = Mixed(4, network.Mixed(1, 2, 3, 4, 5, 6)).eval()
    shuffled_statistics(block)
    x = random_clip(1, 4, 3, 5, 4)
    b0, b1, b2, b3 = block(x).split((1, 3, 5, 6), dim=1)
    assert torch.equal(b0, block.b0(x))
    assert torch.equal(b1, block.b1b(block.b1a(x)))
    assert torch.equal(b2, block.b2b(block.b2a(x)))
    assert torch.equal(b3, block.b3b(nn.functional.max_pool3d(x, 3, 1, 1)))


def test_batch_norm_constants() -> None:
    norms = [m for m in I3D().modules() if isinstance(m, nn.BatchNorm3d)]
    assert len(norms) == 57
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 1e-3)}


def test_shapes_of_a_64_frame_clip() -> None:
    with torch.device("meta"):
        maps = I3D().forward_endpoints(torch.empty(2, 3, 64, 224, 224), network.OUTPUTS)
    assert {name: tuple(m.shape) for name, m in maps.items()} == {n: (2, *s) for n, s in TABLE.items()}
    assert list(maps) == list(TABLE)


@torch.no_grad()
def test_shapes_of_the_smallest_clip() -> None:
    """9x193x193 is odd almost everywhere on its way down to the head's 2x7x7."""
    maps = I3D(7, 2).eval().forward_endpoints(random_clip(1, 2, 9, 193, 193), network.OUTPUTS)
    shapes = {name: tuple(m.shape[1:]) for name, m in maps.items()}
    for name in network.TRUNK:
        channels, t, h, _ = TABLE[name]
        assert shapes[name] == (channels, -(-9 // (64 // t)), *[-(-193 // (224 // h))] * 2), name
    assert shapes["Mixed_5c"] == (1024, 2, 7, 7)
    assert shapes["Features"] == (1024, 1)
    assert shapes["Logits"] == shapes["Predictions"] == (7,)
    torch.testing.assert_close(maps["Predictions"], torch.softmax(maps["Logits"], dim=1))


@torch.no_grad()
def test_head_averages_windows_then_classifies_then_averages_time() -> None:
    torch.manual_seed(0)
    model = I3D(5).eval()
    x = random_clip(1, 3, 17, 225, 193)
    features = model.forward_features(x)
    assert features.shape == (1, 1024, 3, 8, 7)

    pooled = torch.stack(
        [features[0, :, t : t + 2, h : h + 7, :].mean(dim=(1, 2, 3)) for t in (0, 1) for h in (0, 1)]
    )
    weight, bias = model.logits.conv3d.weight.flatten(1), model.logits.conv3d.bias
    torch.testing.assert_close(model(x)[0], (pooled @ weight.T + bias).mean(dim=0))

    seen_by_head = model.extract_features(x)
    assert seen_by_head.shape == (1, 1024, 2)
    torch.testing.assert_close(seen_by_head[0, :, 1], pooled[2:].mean(dim=0))
    torch.testing.assert_close(model(x), seen_by_head.mean(dim=2) @ weight.T + bias)


def test_state_dict_keys_are_those_of_the_common_port() -> None:
    norm = ("bn.weight", "bn.bias", "bn.running_mean", "bn.running_var", "bn.num_batches_tracked")
    units = ["Conv3d_1a_7x7", "Conv3d_2b_1x1", "Conv3d_2c_3x3"]
    for block in ("3b", "3c", "4b", "4c", "4d", "4e", "4f", "5b", "5c"):
        units += [f"Mixed_{block}.{branch}" for branch in ("b0", "b1a", "b1b", "b2a", "b2b", "b3b")]
    expected = {f"{unit}.{name}" for unit in units for name in ("conv3d.weight", *norm)}
    assert set(I3D().state_dict()) == expected | {"logits.conv3d.weight", "logits.conv3d.bias"}


@torch.no_grad()
def test_runs_no_further_than_needed() -> None:
    model = I3D().eval()
    ran: list[str] = []
    for name, module in model.named_children():
        module.register_forward_hook(lambda *_, name=name: ran.append(name))
    x = random_clip(1, 3, 2, 20, 20)  # far too small for the head
    maps = model.forward_endpoints(x, ["Conv3d_2b_1x1", "Conv3d_1a_7x7"])
    assert ran == ["Conv3d_1a_7x7", "MaxPool3d_2a_3x3", "Conv3d_2b_1x1"]
    assert list(maps) == ["Conv3d_1a_7x7", "Conv3d_2b_1x1"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_batch_norm_stays_at_least_float32(dtype: torch.dtype) -> None:
    norm = BatchNorm3d(3).to(dtype)
    statistics = {norm.weight.dtype, norm.bias.dtype, norm.running_mean.dtype, norm.running_var.dtype}
    assert statistics == {torch.float64 if dtype is torch.float64 else torch.float32}
    assert norm.num_batches_tracked.dtype is torch.long


def test_replace_logits_keeps_dtype_and_mode() -> None:
    model = I3D().to(torch.bfloat16).eval()
    model.replace_logits(11)
    assert model.num_classes == 11
    assert model.logits.conv3d.weight.shape == (11, 1024, 1, 1, 1)
    assert model.logits.conv3d.weight.dtype is torch.bfloat16
    assert not model.logits.training


@pytest.mark.parametrize("names", [["Mixed_9z"], ["Logits", "logits"]])
def test_unknown_endpoints(names: list[str]) -> None:
    with pytest.raises(ValueError, match=rf"unknown endpoints \['{names[-1]}'\].*Mixed_5c"):
        I3D().forward_endpoints(random_clip(1, 3, 9, 193, 193), names)


def test_endpoint_given_as_a_string() -> None:
    with pytest.raises(ValueError, match=r"'Logits'.*list"):
        I3D().forward_endpoints(random_clip(1, 3, 9, 193, 193), "Logits")


@pytest.mark.parametrize("argument", ["num_classes", "in_channels"])
def test_counts_below_one(argument: str) -> None:
    with pytest.raises(ValueError, match=f"{argument} must be at least 1, got 0"):
        I3D(**{argument: 0})
    with pytest.raises(ValueError, match="num_classes must be at least 1, got -1"):
        I3D().replace_logits(-1)
