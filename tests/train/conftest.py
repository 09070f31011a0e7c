"""Fixtures of training: what is known of videos is kept apart from the user's cache."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def index_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in place of the user's cache for indexes, in this process."""
    home = tmp_path_factory.mktemp("cache")
    try:
        from fasti3d.train.data import index_cache
    except ImportError:  # tests of GPUs, which need no more than torch, know no videos
        return home
    monkeypatch.setattr(index_cache, "cache_dir", lambda: home)
    return home
