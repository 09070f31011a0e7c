"""What a cache of derived values holds: no new tensor may take the place of one in the key."""

from __future__ import annotations

import gc
import weakref

import torch
from torch import nn

from fasti3d.fusion.layers import FusedConv3d
from fasti3d.utils.derived import DerivedCache, memory_of


def test_what_the_key_was_made_of_stays_as_long_as_the_value() -> None:
    cache: DerivedCache[int] = DerivedCache()
    tensor = torch.ones(2)
    gone = weakref.ref(tensor)
    assert cache.get(id(tensor), lambda: 1, lambda t=tensor: t) == 1
    del tensor
    gc.collect()
    assert gone() is not None
    assert cache.get("another", lambda: 2, lambda: None) == 2
    gc.collect()
    assert gone() is None


def test_memory_stays_where_a_tensor_is_given_another() -> None:
    parameter = nn.Parameter(torch.ones(2))
    (held,) = memory_of([parameter])
    address = parameter.data_ptr()
    parameter.data = torch.zeros(2)
    assert held.data_ptr() == address != parameter.data_ptr()


def test_a_layer_keeps_the_buffers_by_whose_identity_it_knows_them() -> None:
    layer = FusedConv3d(nn.Conv3d(16, 16, 1), None, relu=False)
    x = torch.randn(1, 16, 2, 3, 4)
    with torch.no_grad():
        layer(x)
        old = weakref.ref(layer.folded_weight)
        layer.folded_weight = 2 * layer.folded_weight
        gc.collect()
        assert old() is not None
        y = layer(x)
        gc.collect()
    assert old() is None
    expected = nn.functional.conv3d(x, layer.folded_weight, layer.folded_bias)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
