"""Where the tests of the documentation find what makes its pages, and what other tests make."""

from __future__ import annotations

import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(_ROOT / "docs" / "hooks"), str(_ROOT / "tests" / "train")]
