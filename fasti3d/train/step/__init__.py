"""The training step of I3D on the library's operators."""
