"""The training step: the trunk as a few nodes of autograd's graph, each of the operators that run fastest."""

from fasti3d.train.step.parts import Part, describe, tensors_of
from fasti3d.train.step.walk import walk

__all__ = ["Part", "describe", "tensors_of", "walk"]
