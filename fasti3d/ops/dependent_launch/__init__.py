"""Programmatic dependent launch: a kernel's blocks come to their SMs while the kernel before it still runs.

There they wait until all that was launched before has ended: before the first read of what that wrote, and
before the first write, since a map of a plan takes the memory of earlier ones. So each kernel begins with
``in_turn``, and the order of a stream stays what it was. GPUs of compute capability 9.0 and later do it.

Source: CUDA C++ programming guide, programmatic dependent launch and synchronization.
"""
