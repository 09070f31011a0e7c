"""Networks with the interfaces of other PyTorch ports of I3D: change one import line."""

from fasti3d.compat import hassony2, pytorch_i3d

__all__ = ["hassony2", "pytorch_i3d"]
