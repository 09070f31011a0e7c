"""Networks with the interfaces of other PyTorch ports of I3D: change one import line.

``InceptionI3d`` is piergiaj/pytorch-i3d's, ``I3D`` hassony2/kinetics_i3d_pytorch's, which returns
probabilities and logits.
"""

from fasti3d.compat import hassony2, pytorch_i3d
from fasti3d.compat.hassony2 import I3D
from fasti3d.compat.pytorch_i3d import InceptionI3d

__all__ = ["I3D", "InceptionI3d", "hassony2", "pytorch_i3d"]
