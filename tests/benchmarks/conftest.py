"""A network of few channels for the benchmarks' own logic."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from i3d_making import narrowed

from benchmarks import peers


@pytest.fixture
def narrow_peers() -> Iterator[None]:
    """Peers are of few channels, and none is kept for other tests."""
    for cached in (peers.random_reference, peers.expected_logits):
        cached.cache_clear()
    with narrowed():
        yield
    for cached in (peers.random_reference, peers.expected_logits):
        cached.cache_clear()
