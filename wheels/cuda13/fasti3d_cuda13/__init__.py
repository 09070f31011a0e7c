"""The CUDA kernels of fasti3d, which loads them (fasti3d/runtime/extension.py); there is nothing to call."""
