"""Proof before use: no kernel serves a GPU before it was right on it, once, on a small problem.

``guard`` is what operators ask; ``subject`` says what is to be proved; ``cases`` proves it; ``worker`` has
that done by a process of its own, which a faulting kernel may kill; ``verdicts`` remembers.

FASTI3D_SELF_CHECK=0 turns it off.
"""
