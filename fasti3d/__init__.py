"""fasti3d."""
