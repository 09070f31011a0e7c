"""The Triton kernels under the oldest Triton that they serve, which torch 2.11 brings along."""

from __future__ import annotations

import older_triton
import pytest


@pytest.mark.skipif(older_triton.why_not() is not None, reason=str(older_triton.why_not()))
@pytest.mark.parametrize("interpreted", [True, False])
def test_the_kernels_pass_under_an_older_triton(interpreted: bool) -> None:
    output = older_triton.run(interpreted)
    first, *_, summary = output.splitlines()
    assert f" {older_triton.VERSION}." in first
    assert " passed" in summary
    assert "skipped" not in summary, output[-10000:]
