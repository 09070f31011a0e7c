"""Networks of a tenth of the width, which run the same forms of each layer, and of few blocks."""

from __future__ import annotations

import pytest

from fasti3d.resnet import reference
from fasti3d.resnet.variants import VARIANTS

_WIDTHS = (16, 24, 32, 40)


@pytest.fixture(scope="module")
def narrow():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "WIDTHS", _WIDTHS)
        patch.setattr(reference, "FEATURE_CHANNELS", _WIDTHS[-1] * reference.EXPANSION)
        yield


@pytest.fixture
def short(monkeypatch):
    """For a test that traces or compiles: one or two blocks per stage."""
    monkeypatch.setattr(reference, "BLOCKS", {50: (1, 2, 2, 1)})
    for name, its in VARIANTS.items():
        if its.non_local is not None:
            blocks = its.non_local._replace(places={50: ((1,), (1,))})
            monkeypatch.setitem(VARIANTS, name, its._replace(non_local=blocks))
