"""Training and evaluation of I3D on video data sets.

Source: Carreira & Zisserman, "Quo Vadis, Action Recognition?" (CVPR 2017), sections 3 and 4.
"""
