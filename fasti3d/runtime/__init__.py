"""What runs where: the compiled operators, GPUs, devices, and the route that a dtype takes."""
