"""Arguments that operators must refuse, each with the error that it is to be."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from tvl1_making import arguments

from fasti3d.flow import TVL1Params
from fasti3d.ops.conv3d_bn_relu.tiles import pack_tiles
from fasti3d.ops.conv3d_bn_relu.winograd import minimal_filter

Arguments = dict[str, Any]
HUGE = 2**63 - 1
HALVES = ("x", "out", "residual")
_LAST = torch.channels_last_3d


def clip(*shape: int) -> Tensor:
    return torch.randn(shape).contiguous(memory_format=_LAST)


def convolution(packed: Tensor) -> Arguments:
    return {
        "x": clip(2, 16, 4, 5, 6), "packed": packed, "bias": torch.zeros(16), "kernel": [2, 3, 3],
        "stride": [1, 1, 1], "padding": None, "relu": True, "out": clip(2, 16, 4, 5, 6), "start": 0,
        "residual": clip(2, 16, 4, 5, 6),
    }  # fmt: skip


def direct() -> Arguments:
    return convolution(torch.ops.fasti3d.conv3d_pack(torch.randn(16, 16, 2, 3, 3), torch.float32, []))


def tiles() -> Arguments:
    given = convolution(pack_tiles(torch.randn(16, 16, 2, 3, 3)))
    return {name: value.bfloat16() if name in HALVES else value for name, value in given.items()}


def depthwise() -> Arguments:
    given = convolution(torch.randn(18, 16))
    del given["residual"]
    return given


def matrices(name: str) -> list[Tensor]:
    """Of tiles of 4x2x2 outputs."""
    return [getattr(minimal_filter(outputs, 3), name) for outputs in (4, 2, 2)]


def winograd() -> Arguments:
    packed = torch.ops.fasti3d.conv3d_pack(torch.randn(16, 16, 3, 3, 3), torch.float32, matrices("filters"))
    changes = {
        "packed": packed,
        "inputs": matrices("inputs"),
        "outputs": matrices("outputs"),
        "kernel": [3, 3, 3],
    }
    order = (
        "x",
        "packed",
        "bias",
        "inputs",
        "outputs",
        "kernel",
        "stride",
        "padding",
        "relu",
        "out",
        "start",
        "residual",
    )
    given = direct() | changes
    return {name: given[name] for name in order}


def pool() -> Arguments:
    return {"x": clip(2, 16, 4, 5, 6), "kernel": [3, 3, 3], "stride": [1, 1, 1]}


def padded_pool() -> Arguments:
    return pool() | {"padding": [1, 1, 1], "ceil_mode": False}


def pool_into() -> Arguments:
    return padded_pool() | {"out": clip(2, 16, 4, 5, 6)}


def packing() -> Arguments:
    return {
        "weight": torch.randn(16, 16, 3, 3, 3),
        "dtype": torch.float32,
        "filters": matrices("filters"),
    }


def weights_gradient() -> Arguments:
    inputs, filters, outputs = minimal_filter(4, 3)
    maps = {"grad": clip(2, 16, 4, 5, 6), "x": clip(2, 16, 4, 5, 6)}
    matrices = {"inputs": inputs, "outputs": outputs, "filters": filters}
    return maps | matrices | {"kernel": [3, 3, 3], "stride": [1, 1, 1]}


def flow() -> Arguments:
    names = ("mode", "tau", "lambda_", "theta", "nscales", "warps", "epsilon", "inner_iterations")
    names += ("outer_iterations", "scale_step", "gamma", "median_filtering")
    values = arguments(TVL1Params(warps=1, inner_iterations=1, outer_iterations=1))
    frames = torch.rand(2, 20, 20)
    start = {"frame0": frames, "frame1": frames.clone(), "initial_flow": torch.zeros(2, 2, 20, 20)}
    return start | dict(zip(names, values, strict=True))


def head() -> Arguments:
    x, weight, bias = torch.randn(2, 4, 2, 7, 7), torch.randn(3, 4), torch.randn(3)
    return {"x": x, "weight": weight, "bias": bias, "window": [2, 7, 7]}


def prints() -> Arguments:
    return {"tensors": [torch.zeros(3, 3)]}


def fused() -> Arguments:
    weight = torch.randn(16, 16, 3, 3, 3)
    return {
        "x": clip(1, 16, 4, 5, 6),
        "weight": weight,
        "bias": None,
        "stride": [1] * 3,
        "padding": None,
        "relu": True,
    }


def vectors(*names: str) -> Arguments:
    return {name: torch.randn(16) for name in names}


def stats() -> Arguments:
    return {"x": clip(2, 16, 4, 5, 6)} | vectors("mean", "var")


def normalized() -> Arguments:
    return {"x": clip(2, 16, 4, 5, 6)} | vectors("scale", "shift") | {"out": clip(2, 16, 4, 5, 6)}


def norm_sums() -> Arguments:
    maps = {"grad": clip(2, 16, 4, 5, 6), "x": clip(2, 16, 4, 5, 6)}
    return maps | vectors("mean", "scale", "shift", "total", "dot")


def norm_backward() -> Arguments:
    maps = {"grad": clip(2, 16, 4, 5, 6), "x": clip(2, 16, 4, 5, 6)}
    return maps | vectors("mean", "scale", "shift", "slope", "offset") | {"out": clip(2, 16, 4, 5, 6)}


def taps_pool() -> Arguments:
    return pool() | {"out": clip(2, 16, 4, 5, 6), "taps": clip(2, 16, 4, 5, 6).byte()}


def taps_backward() -> Arguments:
    maps = {"grad": clip(2, 16, 2, 3, 3), "taps": clip(2, 16, 2, 3, 3).byte()}
    return maps | {"kernel": [3, 3, 3], "stride": [2, 2, 2], "out": clip(2, 16, 4, 5, 6)}


def overlapping(shape: tuple[int, ...]) -> Tensor:
    """Rows that begin in the row before."""
    n, c, t, h, w = shape
    return torch.zeros(10 * c * n * t * h * w).as_strided(
        shape, (c * w * h * t, 1, c * w * h, c * (w - 1), c)
    )


def twice(x: Tensor) -> Tensor:
    return x[:, :, :1].expand(x.shape)


Change = tuple[str, Callable[[Arguments], Any], str]


def put(name: str, value: Any, error: str) -> Change:
    return name, lambda given: value, error


def of(name: str, change: Callable[[Tensor], Any], error: str) -> Change:
    return name, lambda given: change(given[name]), error


def of_axis(name: str, axis: int, change: Callable[[Tensor], Any], error: str) -> Change:
    """A change of one of the matrices of t, h and w."""
    return (
        name,
        lambda given: [change(m) if i == axis else m for i, m in enumerate(given[name])],
        error,
    )


def triples(name: str, least: int, most: int) -> list[Change]:
    return [
        *(
            put(name, [1, value, 1], f"{name} must .*{value}")
            for value in (least - 1, -HUGE - 1, most + 1, HUGE)
        ),
        *(put(name, [1] * count, f"{name} must .*") for count in (0, 2, 4)),
    ]


def into(*read: str) -> list[Change]:
    return [
        of("out", lambda out: out[..., :3, :], "out must "),
        of("out", lambda out: out[0], "out must "),
        of("out", Tensor.double, "out must "),
        of("out", Tensor.contiguous, "out must be channels-last"),
        of("out", twice, "more than one element of out refers to a single memory location"),
        of("out", lambda out: out[:1].expand(out.shape), "more than one element of out"),
        of("out", lambda out: overlapping(tuple(out.shape)), "more than one element of out"),
        ("out", lambda given: given["x"], "some elements of x and out refer to a single memory location"),
        *(
            ("out", lambda given, name=name: behind(given[name], given["out"]), f"elements of {name} and out")
            for name in read
        ),
    ]  # fmt: skip


def behind(read: Tensor, out: Tensor) -> Tensor:
    """A clip whose memory begins in what is read, whose last elements it holds too."""
    memory = torch.zeros(read.numel() + out.numel(), dtype=read.dtype)
    memory[: read.numel()] = read.flatten()
    read.set_(memory.untyped_storage(), 0, read.shape, read.stride())
    n, c, t, h, w = out.shape
    return (
        memory[read.numel() - 1 : read.numel() - 1 + out.numel()].view(n, t, h, w, c).permute(0, 4, 1, 2, 3)
    )


CLIPS: list[Change] = [
    of("x", lambda x: x[0], "x must .*"),
    of("x", Tensor.double, "x must be float32"),
    of("x", Tensor.int, "x must be float32"),
]
RESIDUALS = [
    of("residual", Tensor.double, "residual must have x's dtype"),
    of("residual", Tensor.contiguous, "residual must be channels-last"),
    of("residual", lambda r: r[0], "residual must have 5"),
    *(
        of("residual", lambda r, axis=axis: r.narrow(axis, 0, 1), "residual must have out's shape")
        for axis in range(5)
    ),
    ("residual", lambda given: twice(given["out"]), "some elements of residual and out"),
    ("out", lambda given: behind(given["residual"], given["out"]), "some elements of residual and out"),
]
GEOMETRIES = [
    *CLIPS,
    of("x", lambda x: x[:1], "out must "),
    of("bias", lambda bias: bias[:15], "bias must "),
    of("bias", Tensor.double, "bias must "),
    *triples("kernel", 1, 2**31 - 1),
    *triples("stride", 1, 2**31 - 1),
    put("stride", [1, 2, 1], "out must "),
    *triples("padding", 0, 2**15 - 1),
    put("padding", [1, 0, 1], "out must "),
    *(put("start", start, "out must hold") for start in (-1, 1, HUGE, -HUGE - 1)),
    *into("packed", "bias"),
]
CONVOLUTIONS = [
    *GEOMETRIES,
    of("x", Tensor.contiguous, "x must be channels-last"),
    of("x", lambda x: x[:, :0], "x must have channels|packed does not"),
    *(
        of("x", lambda x, axis=axis: x.narrow(axis, 0, 0), "x must have channels|out must")
        for axis in (2, 3, 4)
    ),
    of("packed", lambda packed: packed[..., :-1], "packed does not hold"),
    of("packed", lambda packed: packed.transpose(-2, -3), "packed does not hold"),
    of("packed", Tensor.double, "packed must be"),
    of("packed", Tensor.bfloat16, "packed must "),
    put("kernel", [2**31 - 1] * 3, "sizes must fit|packed does not hold"),
    *RESIDUALS,
]
DEPTHWISE = [
    *GEOMETRIES,
    *(
        of("x", lambda x, axis=axis: x.narrow(axis, 0, 0), "x must have|out must|weight must")
        for axis in (1, 2, 3, 4)
    ),
    of("packed", lambda packed: packed[:-1], "packed must be"),
    of("packed", lambda packed: packed[:, :15], "packed must be|weight must be"),
    of("packed", lambda packed: packed[0], "packed must be"),
    of("packed", Tensor.double, "packed must be|weight must be"),
]
POOLS = [*CLIPS, *triples("kernel", 1, 2**31 - 1), *triples("stride", 1, 2**31 - 1)]
PADDED = [
    *triples("padding", 0, 2**15 - 1),
    put("padding", [1, 2, 1], "padding must be at most half the kernel"),
    put("kernel", [7, 3, 3], "must fill the kernel"),
    *(of("x", lambda x, axis=axis: x.narrow(axis, 0, 0), "x must have frames") for axis in (2, 3, 4)),
    ("ceil_mode", lambda given: given.update(padding=None) or True, "ceil_mode must be False with SAME"),
]
# References compute float64 as well.
MAPS: list[Change] = [
    of("x", lambda x: x[0], "x must .*"),
    of("x", Tensor.int, "x must be float32"),
    of("x", Tensor.contiguous, "x must be channels-last"),
]


def per_channel(*names: str) -> list[Change]:
    changes = (
        lambda v: v[:15],
        Tensor.double,
        Tensor.bfloat16,
        lambda v: v[None],
        lambda v: v[:1].expand(16),
    )
    return [of(name, change, f"{name} must be contiguous") for name in names for change in changes]


def like_x(name: str) -> list[Change]:
    return [
        of(name, Tensor.bfloat16, f"{name} must "),
        of(name, Tensor.contiguous, f"{name} must be channels-last"),
        of(name, lambda g: g[0], f"{name} must "),
        *(of(name, lambda g, a=axis: g.narrow(a, 0, 1), f"{name} must ") for axis in range(5)),
    ]


def apart(written: str, *read: str) -> list[Change]:
    """Vectors that are written, and memory that is read."""
    return [
        (
            written,
            lambda given, name=name: given[name].as_strided((16,), (1,)),
            f"some elements of ({name} and {written}|{written} and {name}) refer to a single",
        )
        for name in read
    ]


TAPS = [
    *triples("kernel", 1, 2**31 - 1),
    *triples("stride", 1, 2**31 - 1),
    put("kernel", [5, 8, 8], "256 taps"),
]
HOSTILE: list[tuple[str, Callable[[], Arguments], list[Change]]] = [
    ("conv3d_packed_", direct, CONVOLUTIONS),
    (
        "conv3d_tiles_",
        tiles,
        [
            *(change for change in (*GEOMETRIES, *RESIDUALS) if change[0] != "out"),  # those are in float32
            of("out", lambda out: out[:1].expand(out.shape), "more than one element of out"),
            ("out", lambda given: given["x"], "some elements of x and out"),
            RESIDUALS[-1],
            of("x", Tensor.contiguous, "x must be channels-last"),
            of("x", Tensor.float, "x and packed must be bfloat16|out must have x's dtype"),
            of("packed", Tensor.float, "x and packed must be bfloat16"),
            of("packed", lambda packed: packed[:, :-1], "packed does not hold"),
            of("packed", lambda packed: packed[:, :, :0], "packed does not hold"),
            of("packed", lambda packed: packed[:, :, :, :-1], "packed does not hold"),
            of("packed", lambda packed: packed.repeat(1, 1, 1, 2, 1), "packed does not hold"),
            of("packed", lambda packed: packed.flatten(3), "packed does not hold"),
            put("kernel", [2**31 - 1] * 3, "sizes must fit|packed does not hold"),
        ],
    ),
    ("depthwise_conv3d_", depthwise, DEPTHWISE),
    (
        "depthwise_conv3d",
        lambda: fused() | {"weight": torch.randn(16, 1, 3, 3, 3)},
        [
            *CLIPS,
            of("x", lambda x: x[:, :8], "weight must be"),
            *(of("x", lambda x, axis=axis: x.narrow(axis, 0, 0), "x must have frames") for axis in (2, 3, 4)),
            *(of("weight", lambda w, axis=axis: w.narrow(axis, 0, 0), "weight must be") for axis in range(5)),
            of("weight", lambda w: w.expand(-1, 2, -1, -1, -1), "weight must be"),
            of("weight", Tensor.double, "weight must be"),
            put("bias", torch.zeros(15), "bias must have shape"),
            *triples("stride", 1, 2**31 - 1),
            *triples("padding", 0, 2**15 - 1),
        ],
    ),
    (
        "conv3d_winograd_",
        winograd,
        [
            *CONVOLUTIONS,
            *(
                of_axis(name, axis, change, "inputs and outputs must")
                for name, axis, change in (
                    ("inputs", 0, Tensor.double),
                    ("inputs", 1, lambda m: m[:0]),
                    ("inputs", 2, lambda m: m[0]),
                    ("inputs", 0, lambda m: m[..., :0]),
                    ("inputs", 1, lambda m: m.transpose(0, 1)),
                    ("outputs", 0, Tensor.double),
                    ("outputs", 1, lambda m: m[:0]),
                    ("outputs", 2, lambda m: m[0]),
                    ("outputs", 0, lambda m: m.transpose(0, 1)),
                )
            ),
            put("inputs", [], "inputs and outputs must be of 3 axes"),
            put("outputs", [torch.zeros(1, 1)] * 4, "inputs and outputs must be of 3 axes"),
            of_axis("inputs", 0, lambda _: torch.zeros(9, 1, 6), "inputs and outputs must"),
            of_axis("inputs", 1, lambda _: torch.zeros(4, 1, 17), "inputs and outputs must"),
            of_axis("inputs", 1, lambda _: torch.zeros(4, 2, 4), "as many phases as the stride"),
            of_axis("outputs", 2, lambda _: torch.zeros(9, 4), "inputs and outputs must"),
            put("inputs", [torch.zeros(7, 1, 7)] * 3, "inputs and outputs must"),
            *(
                (
                    "out",
                    lambda given, name=name: behind(given[name][0], given["out"]),
                    f"elements of {name} and out",
                )
                for name in ("inputs", "outputs")
            ),
        ],
    ),
    ("max_pool3d_same", pool, POOLS),
    ("max_pool3d", padded_pool, [*POOLS, *PADDED]),
    ("max_pool3d_", pool_into, [*POOLS, *PADDED, *into()]),
    (
        "conv3d_pack",
        packing,
        [
            of("weight", lambda w: w[0], "weight must have 5"),
            of("weight", Tensor.double, "weight must be float32"),
            of("weight", lambda w: w[:0], "weight must be float32 and not empty"),
            put("dtype", torch.float16, "dtype must be float32 or bfloat16"),
            *(
                of_axis("filters", axis, change, "filters must")
                for axis, change in enumerate((Tensor.float, lambda m: m[:0], lambda m: m[0]))
            ),
            of_axis("filters", 1, lambda m: m[..., :2].contiguous(), "filters must"),
            of_axis("filters", 1, lambda _: torch.zeros(9, 1, 3).double(), "filters must"),
            put("filters", [torch.ones(1, 3, 1).double()], "filters must be of 3 axes or none, got 1"),
        ],
    ),
    (
        "conv3d_grad_weight",
        weights_gradient,
        [
            *(
                of(name, change, error)
                for name in ("grad", "x")
                for change, error in (
                    (Tensor.double, "grad and x must be float32"),
                    (lambda m: m[0], f"{name} must have 5"),
                    (lambda m: m[:1], r"grad must be \("),
                    (lambda m: m[:, :, :3], r"grad must be \("),
                    (lambda m: m[..., :5], r"grad must be \("),
                    (lambda m: m[:, :0], "x and grad must have channels"),
                    (lambda m: m[:, :, :0], "must"),
                    (Tensor.contiguous, f"{name} must be channels-last"),
                )
            ),
            *triples("kernel", 1, 2**31 - 1),
            *triples("stride", 1, 2**31 - 1),
            put("kernel", [5, 3, 3], "inputs, outputs and filters must"),
            put("kernel", [3, 2**31 - 1, 2**31 - 1], "sizes must fit|out of memory|invalid vector"),
            *(
                of(name, change, "inputs, outputs and filters must")
                for name in ("inputs", "outputs", "filters")
                for change in (Tensor.half, lambda m: m[:0], lambda m: m[0])
            ),
            of("inputs", lambda m: m[:3], "inputs, outputs and filters must"),
            of("filters", lambda m: m[:3], "inputs, outputs and filters must"),
            put("outputs", torch.zeros(17, 6), "inputs, outputs and filters must"),
            put("inputs", torch.zeros(6, 1, 17), "inputs, outputs and filters must"),
        ],
    ),
    (
        "tvl1",
        flow,
        [
            *(
                put(name, value, f"{name}.* must .*")
                for name in ("tau", "lambda_", "theta")
                for value in (0.0, -1.0, float("nan"), float("inf"), 1e300)
            ),
            put("theta", 1e-300, "tau / theta must be at most"),
            *(put("gamma", value, "gamma must") for value in (-0.1, float("nan"), 1e22, 1.1e6)),
            *(put("epsilon", value, "epsilon must") for value in (-0.1, float("nan"))),
            *(put("nscales", value, "nscales must") for value in (0, -1, 1001, HUGE)),
            *(put("warps", value, "warps must") for value in (-1, 1001, HUGE)),
            *(
                put(f"{n}_iterations", v, f"{n}_iterations.* must")
                for n in ("inner", "outer")
                for v in (0, HUGE, 2**31)
            ),
            *(put("scale_step", value, "scale_step must") for value in (0.0, 1.0, -1.0, float("nan"))),
            *(put("median_filtering", value, "median_filtering must") for value in (-1, 2, 7, HUGE)),
            put("mode", "", "mode must"),
            *(
                of(name, change, "frame[01] must|initial_flow must")
                for name in ("frame0", "frame1")
                for change in (
                    Tensor.double,
                    lambda f: f[0],
                    lambda f: f[:, :2],
                    lambda f: f[:, :, :15].contiguous(),
                    lambda f: f[:1],
                    lambda f: f * float("nan"),
                    lambda f: f - 2e6,
                    lambda f: f * 1e20,
                )
            ),
            put("frame0", torch.zeros(0, 2**40, 3), "frame0 must have sides"),
            *(
                of("initial_flow", change, "initial_flow must")
                for change in (
                    Tensor.double,
                    lambda f: f[0],
                    lambda f: f[:1],
                    lambda f: f + float("nan"),
                    lambda f: f + 1e20,
                )
            ),
        ],
    ),
    (
        "average_head",
        head,
        [
            *CLIPS[:1],
            of("x", lambda x: x[:, :, :1], "x must be .* at least"),
            of("x", lambda x: x[..., :6], "x must be .* at least"),
            ("window", lambda given: given.update(x=given["x"][:, :, :0]), "x must be .* at least"),
            *triples("window", 1, 2**31 - 1),
            of("weight", lambda w: w[:, :3], "weight must be"),
            of("weight", lambda w: w[:2], "weight must be"),
            of("weight", Tensor.half, "weight must be torch.float32"),
            of("bias", lambda b: b[0], "bias must be"),
        ],
    ),
    ("fingerprint", prints, [put("tensors", [torch.zeros(3, 2).T], "tensors must be contiguous")]),
    (
        "conv3d_bn_relu",
        fused,
        [
            *CLIPS[:1],
            *(of("x", lambda x, axis=axis: x.narrow(axis, 0, 0), "x must have frames") for axis in (2, 3, 4)),
            of("x", lambda x: x[:, :0], "weight must be"),
            *(of("weight", lambda w, axis=axis: w.narrow(axis, 0, 0), "weight must be") for axis in range(5)),
            put("bias", torch.zeros(15), "bias must have shape"),
            *triples("stride", 1, 2**31 - 1),
            *triples("padding", 0, 2**15 - 1),
        ],
    ),
    (
        "batch_norm_stats_",
        stats,
        [
            *MAPS,
            *(of("x", lambda x, a=axis: x.narrow(a, 0, 0), "x must have|mean must") for axis in range(5)),
            *per_channel("mean", "var"),
            *apart("mean", "x"),
            *apart("var", "x", "mean"),
        ],
    ),
    (
        "scale_shift_relu_",
        normalized,
        [*MAPS, *per_channel("scale", "shift"), *into("scale", "shift")],
    ),
    (
        "batch_norm_relu_sums_",
        norm_sums,
        [
            *MAPS,
            *like_x("grad"),
            *per_channel("mean", "scale", "shift", "total", "dot"),
            *apart("total", "grad", "x", "mean", "scale", "shift"),
            *apart("dot", "grad", "x", "mean", "scale", "shift", "total"),
        ],
    ),
    (
        "batch_norm_relu_backward_",
        norm_backward,
        [
            *MAPS,
            *like_x("grad"),
            *per_channel("mean", "scale", "shift", "slope", "offset"),
            *into("grad", "mean", "scale", "shift", "slope", "offset"),
        ],
    ),
    (
        "max_pool3d_taps_",
        taps_pool,
        [
            *MAPS,
            *TAPS,
            *into(),
            of("taps", Tensor.int, "taps must "),
            of("taps", Tensor.contiguous, "taps must be channels-last"),
            of("taps", lambda t: t[:, :8], "taps must "),
            of("taps", lambda t: t[:1].expand(t.shape), "more than one element of taps"),
        ],
    ),
    (
        "max_pool3d_taps_backward_",
        taps_backward,
        [
            *TAPS,
            of("grad", Tensor.contiguous, "grad must be channels-last"),
            of("grad", lambda g: g[0], "grad must "),
            of("grad", Tensor.int, "grad must be float32"),
            of("grad", lambda g: g[:, :8], "taps must "),
            of("taps", Tensor.int, "taps must "),
            of("taps", lambda t: t[:1], "taps must "),
            of("taps", Tensor.contiguous, "taps must be channels-last"),
            put("stride", [1, 2, 2], "out must "),
            of("out", lambda out: out[:, :8], "out must "),
            of("out", lambda out: out[..., :3], "out must "),
            of("out", Tensor.double, "out must "),
            of("out", Tensor.contiguous, "out must be channels-last"),
            of("out", lambda out: out[:1].expand(out.shape), "more than one element of out"),
        ],
    ),
]
EVERY = [(name, make, change) for name, make, changes in HOSTILE for change in changes]


def hostile(pick: random.Random) -> None:
    """One change for the worse of good arguments: the operator says what is wrong."""
    refuse(*pick.choice(EVERY))


def refuse(name: str, make: Callable[[], Arguments], change: Change) -> None:
    given = make()
    argument, make_worse, error = change
    given[argument] = make_worse(given)
    try:
        getattr(torch.ops.fasti3d, name)(*given.values())
    except (RuntimeError, ValueError) as raised:
        if not re.search(error, str(raised)):
            raise AssertionError(f"{name}, {argument}: expected {error!r}, got {raised}") from None
        return
    shown = given[argument].shape if isinstance(given[argument], Tensor) else given[argument]
    raise AssertionError(f"{name} took {argument} {shown}, expected {error!r}")
