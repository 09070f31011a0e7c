"""Makes training and validation quick: few channels, 9 frames of 33x33 pixels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import pytest
from moving_clips import eighth

from fasti3d.train import api
from fasti3d.train.data import clips
from fasti3d.train.evaluation import scoring, validation, views


@contextmanager
def shortened() -> Iterator[None]:
    """Inside, ``fasti3d finetune`` trains a network of an eighth of the width on clips of 9 frames, 64x64."""
    with eighth(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(clips, "SHORT_SIDE", 64)
        patch.setattr(clips, "CROP", 64)
        patch.setattr(api, "TrainingClips", partial(clips.TrainingClips, frames=9))
        small = {name: replace(one, size=64) for name, one in views.VIEWS.items()}
        patch.setattr(validation, "VIEWS", small)
        patch.setattr(scoring, "CLIP_FRAMES", 9)
        patch.setattr(scoring, "SHORT_SIDE", 64)
        yield
