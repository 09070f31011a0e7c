"""A network of few channels for the benchmarks' own logic."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from i3d_making import narrowed

from benchmarks import peers


@pytest.fixture
def narrow_peers() -> Iterator[None]:
    """Peers have few channels, and their logits are not kept for other tests."""
    peers.expected_logits.cache_clear()
    with narrowed():
        yield
    peers.expected_logits.cache_clear()
