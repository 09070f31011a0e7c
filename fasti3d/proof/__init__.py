"""Proof before use: a kernel serves a GPU only after it was correct there once, on a small problem.

Operators ask ``guard``; ``subject`` describes what to prove; ``cases`` proves it; ``worker`` runs the proof
in a process of its own, which a faulting kernel may kill; ``verdicts`` stores the results.

FASTI3D_SELF_CHECK=0 turns it off.
"""
