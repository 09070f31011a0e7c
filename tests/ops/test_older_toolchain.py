"""The Triton kernels under the oldest Triton that they serve, which torch 2.11 brings along."""

from __future__ import annotations

import older_triton
import pytest
from background import Outcome


@pytest.mark.skipif(older_triton.why_not() is not None, reason=str(older_triton.why_not()))
@pytest.mark.background(older_triton.OLDER)
def test_the_kernels_pass_under_an_older_triton(outcome: Outcome) -> None:
    assert outcome.status == 0, outcome.output[-10000:]
    first, *_, summary = outcome.output.splitlines()
    assert f" {older_triton.VERSION}." in first
    assert " passed" in summary
    assert "skipped" not in summary, outcome.output[-10000:]
