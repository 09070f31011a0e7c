"""What a network says of itself, and what it asks of clips, is read from the modules that are there."""

from __future__ import annotations

import copy

import pytest
import torch
from i3d_making import random_clip
from replacing import CLASSES, CLIP, FEATURES, KINDS, check, make
from torch import nn

from fasti3d import I3D

pytestmark = pytest.mark.usefixtures("narrow")


# ---------------------------------------------------------------- channels


@pytest.mark.parametrize("channels", [1, 4])
def test_stems_of_other_channels(channels: int) -> None:
    x = random_clip(1, channels, *CLIP[2:])
    for kind in KINDS.values():
        for replaces_unit in (False, True):
            model = make(kind)
            if replaces_unit:
                model.Conv3d_1a_7x7 = nn.Conv3d(channels, 24, 7, stride=2, padding=3)
            else:
                model.Conv3d_1a_7x7.conv3d = nn.Conv3d(channels, 24, 7, stride=2)
            assert model.in_channels == channels
            check(model, "Mixed_3b", x)
    model = make()
    model.Conv3d_1a_7x7.conv3d = nn.Conv3d(channels, 24, 7, stride=2, bias=False)
    check(model, "Mixed_3b", x)
    assert model._plan is not None
    with pytest.raises(ValueError, match=f"x must have {channels} channels on axis 1, got 3"):
        model.forward_endpoints(random_clip(*CLIP), ["Mixed_3b"])


def test_a_stem_that_takes_its_channels_from_elsewhere() -> None:
    """Nothing is said of clips before parts that may do anything with them."""
    model = make()
    stem = model.Conv3d_1a_7x7
    model.Conv3d_1a_7x7 = nn.Sequential(nn.Conv3d(1, 3, 1), stem)
    assert model.in_channels == 1
    check(model, "Mixed_3b", random_clip(1, 1, *CLIP[2:]))
    model.Conv3d_1a_7x7 = stem
    stem.register_forward_pre_hook(lambda module, args: (args[0].repeat(1, 3, 1, 1, 1),))
    check(model, "Mixed_3b", random_clip(1, 1, *CLIP[2:]))


def test_sizes_follow_the_parts() -> None:
    model = make()
    model.MaxPool3d_5a_2x2 = nn.Identity()
    x = random_clip(1, 3, 9, 97, 97)
    with torch.no_grad():
        assert model(x).shape == (1, CLASSES)


# ---------------------------------------------------------------- what a network says of itself


def test_numbers_follow_the_modules() -> None:
    model = make()
    model.labels = list("abcdefg")
    assert model.labels == tuple("abcdefg")
    for duplicate in (copy.copy(model), copy.deepcopy(model)):
        assert duplicate.labels == model.labels
    model.logits.conv3d = nn.Conv3d(FEATURES, 10, 1)
    assert (model.num_classes, model.labels) == (10, None)
    with pytest.raises(ValueError, match="labels must be a name for each of the 10 classes, got 7"):
        model.labels = tuple("abcdefg")
    model.num_classes = 10  # as those write who know of no property
    with pytest.raises(ValueError, match=r"num_classes is that of the classifier, 10, got 3: .*_logits"):
        model.num_classes = 3
    model.replace_logits(4)
    assert model.num_classes == 4
    model.logits = nn.Conv3d(FEATURES, 3, 1).half()
    model.replace_logits(5)
    assert (model.num_classes, model.logits.conv3d.weight.dtype) == (5, torch.float16)
    del model.logits
    assert model.num_classes is None
    model.replace_logits(2)
    assert model.num_classes == 2


def test_names_of_another_classifier_are_dropped() -> None:
    model = make()
    model.labels = tuple("abcdefg")
    model.logits.conv3d = nn.Conv3d(FEATURES, CLASSES, 1)
    assert model.labels is None


def test_states_of_earlier_versions() -> None:
    """In which numbers and labels were attributes."""
    model = make()
    state = model.__getstate__() | {"num_classes": 7, "in_channels": 3, "labels": tuple("abcdefg")}
    del state["_labels"]
    again = I3D.__new__(I3D)
    again.__setstate__(state)
    assert (again.num_classes, again.in_channels, again.labels) == (7, 3, tuple("abcdefg"))
