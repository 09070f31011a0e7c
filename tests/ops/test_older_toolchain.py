"""The Triton kernels under the oldest Triton that they serve, which torch 2.11 brings along."""

from __future__ import annotations

import older_triton
import pytest


@pytest.fixture
def older_run(request: pytest.FixtureRequest) -> older_triton.Run:
    if why := older_triton.why_not():
        pytest.skip(why)
    return request.config.stash[older_triton.RUN]


# Beside the other tests, with which it began.
@pytest.mark.timeout(1200)
def test_the_kernels_pass_under_an_older_triton(older_run: older_triton.Run) -> None:
    status, output = older_run.result()
    assert status == 0, output[-10000:]
    assert f" {older_triton.VERSION}." in output.splitlines()[0]
    summary = output.splitlines()[-1]
    assert " passed" in summary
    assert "skipped" not in summary, output[-10000:]
