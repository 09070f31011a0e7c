"""torchvision's R3D-18, MC3-18 and R(2+1)D-18, as the engine runs them."""
