"""The training step: the trunk as a few nodes of autograd's graph, each of the operators that run fastest."""

from fasti3d.train.step.parts import Part, check_tensors, describe
from fasti3d.train.step.walk import walk

__all__ = ["Part", "check_tensors", "describe", "walk"]
