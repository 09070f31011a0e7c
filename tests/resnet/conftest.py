"""Networks of a tenth of the width, which run the same forms of each layer."""

from __future__ import annotations

import pytest

from fasti3d.resnet import reference

_WIDTHS = (16, 24, 32, 40)


@pytest.fixture(scope="module")
def narrow():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "WIDTHS", _WIDTHS)
        patch.setattr(reference, "FEATURE_CHANNELS", _WIDTHS[-1] * reference.EXPANSION)
        yield
