"""I3D-ResNet: the networks that model zoos call I3D, one variant per implementation."""
