"""The network's side of FVD."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from allowing_tf32 import tf32_allowed
from clip_making import noise
from safetensors.torch import save_file
from torch import Tensor

import fasti3d
from fasti3d.metrics.embedding import Embedding
from fasti3d.metrics.presets import PRESETS, prepare
from fasti3d.runtime.precision import Precision, precision_of

TF = PRESETS["tf"]
# Float32 through 21 convolutions; see tests/tolerances.py.
FLOAT32 = 2e-5


# What each author's network divides by: Sonnet's default (deepmind/kinetics-i3d, which google-research's
# frechet_video_distance loads, and from which i3d_torchscript.pt of universome/fvd-comparison was converted);
# videogpt/fvd/pytorch_i3d.py; cdfvd/third_party/i3d/pytorch_i3d.py (cd-fvd 0.1.1).
PUBLISHED_EPS = {"tf": 1e-3, "stylegan-v": 1e-3, "videogpt": 1e-5, "cd-fvd": 1e-5}
POOLS = {
    "Conv3d_1a_7x7": ((1, 3, 3), (1, 2, 2)),
    "Conv3d_2c_3x3": ((1, 3, 3), (1, 2, 2)),
    "Mixed_3c": ((3, 3, 3), (2, 2, 2)),
    "Mixed_4f": ((2, 2, 2), (2, 2, 2)),
}


def published_logits(state: dict[str, Tensor], x: Tensor, eps: float) -> Tensor:
    """The paper's network from its tensors alone, none of this library's modules or tables."""

    def same(x: Tensor, kernel: Sequence[int], stride: Sequence[int]) -> Tensor:
        missing = [
            max((-(-n // s) - 1) * s + k - n, 0) for n, k, s in zip(x.shape[2:], kernel, stride, strict=True)
        ]
        return F.pad(x, [side for m in reversed(missing) for side in (m // 2, m - m // 2)])

    def pool(x: Tensor, kernel: Sequence[int], stride: Sequence[int]) -> Tensor:
        return F.max_pool3d(same(x, kernel, stride), kernel, stride)

    def unit(x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = state[f"{name}.conv3d.weight"]
        y = F.conv3d(same(x, weight.shape[2:], (stride,) * 3), weight, stride=stride)
        mean, var, gamma, beta = (
            state[f"{name}.bn.{part}"].view(-1, 1, 1, 1)
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return ((y - mean) / (var + eps).sqrt() * gamma + beta).relu()

    blocks = [f"Mixed_{name}" for name in ("3b", "3c", "4b", "4c", "4d", "4e", "4f", "5b", "5c")]
    for name in ("Conv3d_1a_7x7", "Conv3d_2b_1x1", "Conv3d_2c_3x3", *blocks):
        if name in blocks:
            branches = [
                unit(x, f"{name}.b0"),
                unit(unit(x, f"{name}.b1a"), f"{name}.b1b"),
                unit(unit(x, f"{name}.b2a"), f"{name}.b2b"),
                unit(pool(x, (3, 3, 3), (1, 1, 1)), f"{name}.b3b"),
            ]
            x = torch.cat(branches, dim=1)
        else:
            x = unit(x, name, 2 if name == "Conv3d_1a_7x7" else 1)
        if name in POOLS:
            x = pool(x, *POOLS[name])
    pooled = F.avg_pool3d(x, (2, 7, 7), stride=1)
    logits = F.conv3d(pooled, state["logits.conv3d.weight"], state["logits.conv3d.bias"])
    return logits.mean(dim=(2, 3, 4))


@pytest.mark.parametrize("preset", ["tf", "videogpt"])  # the others have the eps of one of them
def test_features_are_the_logits_of_the_published_network(random_weights: Path, preset: str) -> None:
    clips = noise(1, frames=17, size=(40, 30)).permute(0, 1, 4, 2, 3)
    chosen = PRESETS[preset]
    found = Embedding(chosen, random_weights, device="cpu")(clips, 0, 255)
    x, state = prepare(clips, 0, 255, chosen), torch.load(random_weights)
    expected = published_logits(state, x, PUBLISHED_EPS[preset])
    assert (found.shape, found.dtype) == ((1, 5), torch.float64)
    assert (found - expected).abs().max() < FLOAT32 * expected.abs().max()
    (other,) = set(PUBLISHED_EPS.values()) - {PUBLISHED_EPS[preset]}
    assert (found - published_logits(state, x, other)).abs().max() > 10 * FLOAT32 * expected.abs().max()


def test_batches_give_the_same_features(random_weights: Path) -> None:
    clips = noise(3, size=(20, 20)).permute(0, 1, 4, 2, 3)
    one = Embedding(TF, random_weights, device="cpu", batch=1)(clips, 0, 255)
    two = Embedding(TF, random_weights, device="cpu", batch=2)(clips.flip(0), 0, 255).flip(0)
    assert (one - two).abs().max() < 1e-13 * one.abs().max()


def test_a_training_loop_s_modes_change_nothing(random_weights: Path) -> None:
    clips = noise(1, size=(20, 20)).permute(0, 1, 4, 2, 3)
    embedding = Embedding(TF, random_weights, device="cpu")
    expected = embedding(clips, 0, 255)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(embedding(clips, 0, 255), expected)
    with torch.inference_mode():
        assert torch.equal(embedding(clips, 0, 255), expected)
    with torch.enable_grad():
        assert not embedding(clips.float().requires_grad_(), 0, 255).requires_grad
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(embedding(clips, 0, 255), expected)
    finally:
        torch.set_default_dtype(torch.float32)


def test_batches_are_as_large_as_the_device_can_use(random_weights: Path) -> None:
    embedding = Embedding(TF, random_weights, device="cpu")
    assert [embedding.batch_size(frames) for frames in (9, 16, 64, 300)] == [7, 4, 1, 1]
    assert Embedding(TF, random_weights, device="cpu", batch=5).batch_size(300) == 5


def test_wrong_arguments(random_weights: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="batch must be at least 1, got 0"):
        Embedding(TF, random_weights, batch=0)
    with pytest.raises(ValueError, match="dtype must be"):
        Embedding(TF, random_weights, dtype="int8")
    with pytest.raises(ValueError, match="device must be"):
        Embedding(TF, random_weights, device="tpu")
    flow = tmp_path / "flow.safetensors"
    save_file(fasti3d.I3D(5, 2).state_dict(), flow)
    with pytest.raises(ValueError, match=r"must take RGB, but .* takes 2 channels"):
        Embedding(TF, flow)


def test_a_program_that_allows_tf32_gets_the_score_of_float32(
    random_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Precision, str]] = []

    def forward(x: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        seen.append((precision_of(x.dtype), torch.backends.cudnn.conv.fp32_precision))
        return {name: torch.zeros(len(x), embedding._weight.shape[1], 2, 7, 7) for name in names}

    embedding = Embedding(TF, random_weights, device="cpu", batch=1)
    monkeypatch.setattr(embedding._network, "forward_endpoints", forward)
    with tf32_allowed():
        assert precision_of(torch.float32) is Precision.TF32
        embedding(noise(2, frames=9, size=(32, 32)).permute(0, 1, 4, 2, 3), 0, 255)
        assert precision_of(torch.float32) is Precision.TF32
    assert seen == [(Precision.TF32X3, "ieee")] * 2
