"""Any network in eval mode on the library's kernels."""
