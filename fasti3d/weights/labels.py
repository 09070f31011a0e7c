"""The class names of Kinetics-400, in the order of the published networks' logits."""

from __future__ import annotations

from importlib import resources

# What checkpoints and registry entries record to say that their classes are these.
KINETICS_400 = "kinetics-400"

KINETICS_400_LABELS: tuple[str, ...] = tuple(
    resources.files(__package__).joinpath("kinetics400_labels.txt").read_text("utf-8").splitlines()
)
"""The names of the 400 classes of Kinetics-400, in the order of the published networks' logits."""
