"""A slice of the campaign that ``make sanitize`` runs, and every hostile argument once."""

from __future__ import annotations

import pytest
from campaign import run
from hostile import EVERY, HOSTILE, refuse

from fasti3d.runtime import extension

pytestmark = pytest.mark.skipif(extension.CORE is None, reason="the extension was not built")


@pytest.mark.parametrize("operator", [name for name, _, _ in HOSTILE])
def test_operators_refuse_what_they_cannot_take(operator: str) -> None:
    for name, make, change in EVERY:
        if name == operator:
            refuse(name, make, change)


def test_random_problems() -> None:
    count, wrong = run(120, seed=7)
    assert not wrong, "\n".join(wrong)
    assert count.total() == 120
