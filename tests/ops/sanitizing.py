"""Programs under CUDA's compute-sanitizer."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def assert_sanitized(tool: str, program: str) -> None:
    """Runs a Python program under one of the sanitizer's tools, which must find nothing."""
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        pytest.skip("compute-sanitizer is not installed")
    command = [sanitizer, "--tool", tool, "--error-exitcode", "9", sys.executable, "-c", program]
    result = subprocess.run(
        command,
        cwd=Path(__file__).resolve().parent,
        # Every tensor its own allocation, whose edges the sanitizer knows.
        env=os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if "Device not supported" in result.stdout:
        pytest.skip("compute-sanitizer does not work on this machine")
    assert result.returncode == 0, result.stdout + result.stderr
