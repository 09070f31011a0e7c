"""From an I3D in eval mode to a list of fused steps: folded batch norm, no padded copies, no concatenation.

A plan holds weights derived from the model's: folded in float32, packed for their kernels. They are
immutable, so threads may share it; ``I3D`` makes a new one whenever the model's weights change.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fasti3d import network
from fasti3d.engine.batch_norm import fold
from fasti3d.engine.cuda_graphs import Graphs
from fasti3d.engine.gpu_steps import GpuMixedStep
from fasti3d.engine.place import Arena
from fasti3d.engine.steps import ConvPoolStep, ConvStep, MixedStep, PoolStep, SeparateMixedStep, Step
from fasti3d.inputs import as_floats
from fasti3d.ops.conv3d_bn_relu.packed import PackedConv3d, TritonConv3d
from fasti3d.ops.conv3d_bn_relu.space_to_depth import FEW_CHANNELS
from fasti3d.ops.i3d_head.op import i3d_head
from fasti3d.reference import I3D, MaxPool3dSame, Mixed, Unit3D


class Plan:
    """The eval-mode network for one compute dtype, with weights of its own.

    A value that is not finite reaches whole tiles of its Winograd forms (see ``PackedConv3d.spread``), up to
    3 frames or rows, at each layer, that it would not reach in plain PyTorch.
    """

    def __init__(self, model: I3D, dtype: torch.dtype) -> None:
        self.dtype = dtype

        def pack(*units: Unit3D) -> PackedConv3d:
            weights, biases = zip(*(fold(unit.conv3d, unit.bn) for unit in units), strict=True)
            weight, bias = torch.cat(weights), torch.cat(biases)
            return PackedConv3d.pack(weight, bias, units[0].stride, relu=True, dtype=dtype)

        self.steps: dict[str, Step] = {}
        # By a part's name: it and the pool behind it in one step, for when nobody asks for its own map.
        self.joint: dict[str, tuple[str, Step]] = {}
        previous = ""
        for name in network.TRUNK:
            module = getattr(model, name, None)
            if isinstance(module, MaxPool3dSame):
                pool = self.steps[name] = PoolStep(module)
                before = self.steps.get(previous)
                # Pieces of the reference would cost a whole convolution each.
                if isinstance(before, ConvStep) and before.conv.fused and pool.only_over_space:
                    self.joint[previous] = (name, ConvPoolStep(before, pool))
                elif isinstance(before, MixedStep):
                    self.joint[previous] = (name, before.followed_by(pool))
            elif isinstance(module, Mixed):
                on_gpu = any(_on_gpu(step) for step in self.steps.values())
                self.steps[name] = (GpuMixedStep if on_gpu else SeparateMixedStep)(module, pack)
            elif isinstance(module, Unit3D):
                self.steps[name] = ConvStep(module, pack)
            previous = name
        self.classifier: tuple[Tensor, Tensor] | None = None
        if (logits := getattr(model, "logits", None)) is not None:
            weight, bias = fold(logits.conv3d, logits.bn)
            self.classifier = weight.flatten(1), bias
        stem = self.steps.get("Conv3d_1a_7x7")
        self.reads_bytes = isinstance(stem, ConvStep) and _on_gpu(stem)
        convs = [conv for step in self.steps.values() for conv in step.convs]
        its_own = all(isinstance(conv, TritonConv3d) for conv in convs)
        self.graphs = Graphs() if convs and its_own else None
        if convs and convs[0].weight.is_cuda:
            # From here on other streams may read the weights.
            torch.cuda.current_stream(convs[0].weight.device).synchronize()

    def run(self, x: Tensor, wanted: set[str], dtype: torch.dtype) -> dict[str, Tensor]:
        """The wanted outputs of a checked clip, which may be uint8, in ``dtype``: from a CUDA graph where
        there is one.
        """
        if self.graphs is None:
            return self.compute(x, wanted, dtype)
        return self.graphs.run(self.compute, x, wanted, dtype)

    def compute(self, x: Tensor, wanted: set[str], dtype: torch.dtype) -> dict[str, Tensor]:
        """The wanted outputs, step by step, of a clip that is rounded to ``dtype`` as they are."""
        arena = Arena(self.dtype, x.device, self.measure(x.shape, wanted, x.device)[1])
        maps: dict[str, Tensor] = {}
        if x.dtype != torch.uint8 or not self.reads_bytes:
            x = as_floats(x, dtype).to(self.dtype)
        if x.shape[1] >= FEW_CHANNELS:
            x = x.contiguous(memory_format=torch.channels_last_3d)
        for name, step in self.choose(wanted):
            x = step(x, arena)
            if name in wanted:
                maps[name] = x.to(dtype, copy=True)
        if wanted.intersection(network.HEAD):
            # A network without a classifier has features alone.
            no_class = x.new_empty((0, x.shape[1]), dtype=torch.float32)
            features, logits = i3d_head(x, *(self.classifier or (no_class, no_class[:, 0])))
            results = (features, logits, logits.softmax(dim=1))
            maps |= {name: value.to(dtype) for name, value in zip(network.HEAD, results, strict=True)}
        return {name: maps[name] for name in network.OUTPUTS if name in wanted}

    def measure(
        self, shape: Sequence[int], wanted: set[str], device: torch.device
    ) -> tuple[list[torch.Size], int]:
        """The shapes of the steps' maps for clips of this shape, and the bytes of the arena they need on the
        plan's device.
        """
        arena = Arena(self.dtype, device)
        x = torch.empty(tuple(shape), dtype=self.dtype, device="meta")
        shapes = []
        for _, step in self.choose(wanted):
            x = step(x, arena)
            shapes.append(x.shape)
        return shapes, arena.peak

    def choose(self, wanted: set[str]) -> list[tuple[str, Step]]:
        """The steps up to the last wanted endpoint, joint ones where the map between is not wanted."""
        names = list(self.steps)
        # The head looks at the last map.
        maps = {"Mixed_5c" if name in network.HEAD else name for name in wanted}
        names = names[: 1 + max((names.index(name) for name in maps), default=-1)]
        chosen: list[tuple[str, Step]] = []
        for name in names:
            if chosen and chosen[-1][0] == name:
                continue  # came with the one before
            joint = self.joint.get(name) if name not in wanted and name != names[-1] else None
            chosen.append(joint or (name, self.steps[name]))
        return chosen


def _on_gpu(step: Step) -> bool:
    """Whether Triton kernels run the step's convolutions."""
    return any(isinstance(conv, TritonConv3d) for conv in step.convs)
