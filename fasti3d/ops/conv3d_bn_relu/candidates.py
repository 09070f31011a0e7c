"""The configurations that may be chosen for a convolution: few enough to compile and to measure them all."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from itertools import product
from operator import itemgetter

from fasti3d.ops.conv3d_bn_relu.config import (
    DESCRIPTOR_CHIPS,
    MIN_STAGES,
    Config,
    Form,
    Problem,
    choose,
    estimate,
    tiles,
)
from fasti3d.runtime.precision import Precision

# Tiles expected to cost more than this many times the best are left out, as an estimate is not wrong by more;
# of the others so many are candidates, as they are compiled and measured in minutes.
_WORST = 1.5
_MAX_TILES = 3


@lru_cache(4096)
def candidates(problem: Problem) -> tuple[Config, ...]:
    """All configurations that may serve a problem; the first is the one chosen where none was measured."""
    return tuple(dict.fromkeys((choose(problem), *_ranked(problem))))


def _ranked(problem: Problem) -> Iterator[Config]:
    form, possible = tiles(problem)
    ranked = sorted((estimate(problem, form, tile) for tile in possible), key=itemgetter(0))
    for time, config in ranked[:_MAX_TILES]:
        if time > _WORST * ranked[0][0]:
            break
        yield config
        # One stage less leaves room for another tile on the SM.
        if form == Form.POINTER and config.stages > MIN_STAGES:
            yield replace(config, stages=config.stages - 1)
    if form == Form.DESCRIPTOR:
        # Any chip runs the other form, which reads the same pixels through the cache instead.
        yield from _ranked(replace(problem, describable=False))


@lru_cache(1)
def candidate_set() -> str:
    """A name for the set of candidates, which changes whenever it does for convolutions like I3D's."""
    sizes = ((32, 56, 56), (32, 28, 28), (16, 14, 14), (8, 7, 7))
    digest = hashlib.sha256()
    for capability, size, cin, cout in product(((8, 6), *DESCRIPTOR_CHIPS), sizes, (16, 96, 528), (32, 192)):
        for kernel, describable in product(((1, 1, 1), (3, 3, 3)), (True, False)):
            problem = Problem(1, cin, cout, size, kernel, (1, 1, 1), capability, 100, describable)
            # One size tells of the tiles that float32 has.
            for precision in Precision if size == sizes[0] else (Precision.HALF,):
                digest.update(repr(candidates(replace(problem, precision=precision))).encode())
    return digest.hexdigest()[:16]
