"""The arithmetic of receptive fields along time, against what the network itself looks at."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import pytest
import torch
from torch import nn

from fasti3d import dense, network, reference

TRUNK = tuple(network.TRUNK)


@cache
def adding_network() -> reference.I3D:
    """Positive weights and no bias: what a single frame that is not zero reaches is not zero either."""
    model = reference.I3D(1, 1).eval()
    for part in model.modules():
        if isinstance(part, nn.Conv3d):
            nn.init.constant_(part.weight, 1 / part.weight[0].numel())
    nn.init.zeros_(model.logits.conv3d.bias)
    return model


def reached(frames: int, chosen: list[int]) -> dict[str, list[list[int]]]:
    """By map, the steps that each of some frames has an influence on."""
    x = torch.zeros(len(chosen), 1, frames, 1, 1)
    for clip, frame in zip(x, chosen, strict=True):
        clip[:, frame] = 1
    with torch.no_grad():
        maps = adding_network().forward_endpoints(x, TRUNK)
    return {
        name: [steps.nonzero().flatten().tolist() for steps in y.sum(dim=(1, 3, 4))]
        for name, y in maps.items()
    }


@pytest.mark.parametrize("frames", [9, 113, 114, 115, 116])
def test_a_frame_reaches_exactly_the_steps_that_see_it(frames: int) -> None:
    chosen = [0, frames // 2, frames // 2 + 1, frames - 1]
    for name, found in reached(frames, chosen).items():
        support = dense.support(name, frames)
        for frame, steps in zip(chosen, found, strict=True):
            assert steps == [i for i, s in enumerate(support) if s.seen_start <= frame < s.seen_end], name


def test_no_frame_reaches_beyond_the_ends_of_its_field() -> None:
    frames, name = 107, "Mixed_5c"
    fields = dense.support(name, frames)
    for step in (0, 6, 13):
        start, end = fields[step].seen_start, fields[step].seen_end
        chosen = sorted({start - 1, start, end - 1, end} & set(range(frames)))
        for frame, steps in zip(chosen, reached(frames, chosen)[name], strict=True):
            assert (step in steps) == (start <= frame < end)
    assert fields[6].seen_start > 0
    assert fields[6].seen_end < frames  # one that the video's ends do not cut


@pytest.mark.parametrize("frames", range(9, 26))
def test_steps_are_those_of_the_network(frames: int) -> None:
    with torch.no_grad():
        maps = adding_network().forward_endpoints(torch.zeros(1, 1, frames, 1, 1), TRUNK)
    assert {name: dense.steps(name, frames) for name in TRUNK} == {n: y.shape[2] for n, y in maps.items()}
    assert dense.steps("pooled", frames) == dense.steps("logits", frames) == maps["Mixed_5c"].shape[2] - 1


def test_the_field_depends_on_the_frames_by_their_remainder_by_4() -> None:
    for name in dense.FEATURES:
        fields = [dense.field(name, frames) for frames in range(16, 32)]
        assert fields == fields[:4] * 4
        assert len({(field.stride, field.size) for field in fields}) == 1
    assert [dense.field("Mixed_5c", frames).before for frames in (64, 65, 66, 67)] == [44, 47, 46, 45]
    assert dense.field("Mixed_5c", 64)[::2] == (8, 99)
    assert dense.field("pooled", 64) == (8, 44, 107)


@pytest.mark.parametrize("frames", [9, 16, 47, 130])
@pytest.mark.parametrize("name", ["Conv3d_2c_3x3", "Mixed_4b", "Mixed_5c"])
def test_the_steps_of_a_map_tile_the_video(name: str, frames: int) -> None:
    spans = dense.support(name, frames)
    assert spans[0].start == 0
    assert spans[-1].end == frames
    assert all(a.end == b.start for a, b in pairwise(spans))
    stride = dense.field(name, frames).stride
    for span in spans:
        # What a step stands for is in the middle of what it sees.
        assert abs(span.centre - (span.start + (stride - 1) / 2)) <= 2
        assert span.seen_start <= span.start < span.end <= span.seen_end


def test_the_heads_steps_are_those_of_two() -> None:
    maps, pooled = dense.support("Mixed_5c", 61), dense.support("pooled", 61)
    assert len(pooled) == len(maps) - 1 == 7
    for both, (a, b) in zip(pooled, pairwise(maps), strict=True):
        assert (both.start, both.end) == (a.start, b.end)
        assert (both.seen_start, both.seen_end) == (a.seen_start, b.seen_end)
        assert both.centre == (a.centre + b.centre) / 2


def test_bad_questions_are_refused() -> None:
    for ask in (dense.field, dense.steps, dense.support):
        with pytest.raises(ValueError, match=r"features must be one of .*Mixed_5c, pooled, logits, got 'x'"):
            ask("x", 20)
        with pytest.raises(ValueError, match="Mixed_5c needs at least 1 frames, got 0"):
            ask("Mixed_5c", 0)
        with pytest.raises(ValueError, match=r"pooled needs at least 9 frames, got 8: .*take Mixed_5c"):
            ask("pooled", 8)
