"""A max-pool 3x3x3 and the 1x1x1 convolution after it in one kernel, for GPUs."""
