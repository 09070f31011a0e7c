"""The interfaces of other projects on fasti3d: change one import line.

``InceptionI3d`` is piergiaj/pytorch-i3d's, ``I3D`` hassony2/kinetics_i3d_pytorch's, which returns
probabilities and logits. ``DualTVL1OpticalFlow`` is OpenCV's, from its module optflow, with its two factory
functions ``DualTVL1OpticalFlow_create`` and ``createOptFlow_DualTVL1``. ``fasti3d.compat.mmaction``, which
is imported by its own name, registers a backbone for mmaction2.
"""

from fasti3d.compat import dual_tvl1, hassony2, pytorch_i3d
from fasti3d.compat.dual_tvl1 import (
    DualTVL1OpticalFlow,
    DualTVL1OpticalFlow_create,
    createOptFlow_DualTVL1,
)
from fasti3d.compat.hassony2 import I3D
from fasti3d.compat.pytorch_i3d import InceptionI3d

__all__ = [
    "I3D",
    "DualTVL1OpticalFlow",
    "DualTVL1OpticalFlow_create",
    "InceptionI3d",
    "createOptFlow_DualTVL1",
    "dual_tvl1",
    "hassony2",
    "pytorch_i3d",
]
