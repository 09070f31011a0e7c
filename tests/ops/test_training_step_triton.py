"""The training step on Triton's kernels without a GPU: in Triton's interpreter."""

from __future__ import annotations

import pytest

pytest.importorskip("triton", reason="triton is not installed")

from background import Outcome


@pytest.mark.background("interpreted_training_step.py")
def test_in_the_interpreter(outcome: Outcome) -> None:
    assert outcome.status == 0, outcome.output[-10000:]
