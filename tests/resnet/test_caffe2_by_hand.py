"""Non-local blocks as caffe2's networks have them, worked out place by place.

Their implementation needs caffe2: this is written after its description (arXiv 1711.07971, section 3, and the
options of video-nonlocal-net: max-pool of x before phi and g, scores over the square root of their channels,
biases everywhere, batch norm by running statistics, no ReLU behind the sum).
"""

from __future__ import annotations

import math

import torch

from fasti3d.resnet.reference import NonLocalBlock
from fasti3d.resnet.variants import VARIANTS

CHANNELS, INNER = 4, 2


def by_hand(block: NonLocalBlock, x: list) -> list:
    """Of x[t][h][w][channel], in Python's floats."""

    values_of = {
        name: tensor.flatten(1).tolist() if tensor.ndim > 1 else tensor.tolist()
        for name, tensor in block.state_dict().items()
    }

    def linear(conv, vector):
        rows, biases = values_of[f"{conv}.weight"], values_of[f"{conv}.bias"]
        return [
            sum(a * b for a, b in zip(row, vector, strict=True)) + bias
            for row, bias in zip(rows, biases, strict=True)
        ]

    keys, values = [], []
    for frame in x:
        for h in range(0, len(frame) - 1, 2):
            for w in range(0, len(frame[0]) - 1, 2):
                window = [frame[i][j] for i in (h, h + 1) for j in (w, w + 1)]
                pooled = [max(pixel[c] for pixel in window) for c in range(CHANNELS)]
                keys.append(linear("phi", pooled))
                values.append(linear("g", pooled))
    found = []
    for pixel in (pixel for frame in x for row in frame for pixel in row):
        query = linear("theta", pixel)
        scores = [sum(a * b for a, b in zip(query, key, strict=True)) / math.sqrt(INNER) for key in keys]
        exponentials = [math.exp(score) for score in scores]
        shares = [e / sum(exponentials) for e in exponentials]
        mixed = [sum(s * v[c] for s, v in zip(shares, values, strict=True)) for c in range(INNER)]
        y = linear("out", mixed)
        for c in range(CHANNELS):
            mean, var = values_of["bn.running_mean"][c], values_of["bn.running_var"][c]
            y[c] = (y[c] - mean) / math.sqrt(var + 1e-5) * values_of["bn.weight"][c] + values_of["bn.bias"][c]
        found.append([a + b for a, b in zip(pixel, y, strict=True)])
    return found


def test_a_block_by_hand():
    generator = torch.Generator().manual_seed(5)
    block = NonLocalBlock(CHANNELS, "embedded_gaussian", VARIANTS["caffe2-32x2"].non_local).double().eval()
    with torch.no_grad():
        for tensor in block.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(0.2 + torch.rand(tensor.shape, generator=generator))
    # Of an odd height, whose last row no window of the pool holds.
    x = torch.randn(1, CHANNELS, 2, 5, 4, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        found = block(x)[0].permute(1, 2, 3, 0).reshape(-1, CHANNELS)
    expected = torch.tensor(by_hand(block, x[0].permute(1, 2, 3, 0).tolist()), dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert (expected < 0).any()
