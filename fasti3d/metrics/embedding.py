"""Computes the features that FVD compares, I3D's time-averaged logits in float64, from prepared clips."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fasti3d import weights
from fasti3d.i3d import I3D
from fasti3d.inputs import range_is_known
from fasti3d.metrics.presets import Preset, prepare
from fasti3d.reference import head_pool
from fasti3d.runtime.devices import resolve_device, resolve_dtype
from fasti3d.runtime.precision import full_float32
from fasti3d.runtime.upload import upload

# Frames per forward pass: enough to occupy the device, few enough to bound the memory.
_FRAMES = {"cuda": 512, "cpu": 64}


class Embedding:
    """The network of one preset with one set of weights.

    Attributes:
        weights: the checkpoint's ``source`` and ``sha256``.
        width: the number of logits.
        device, dtype: of the network. The logits are always computed from its last feature map in float64:
            in float32 they would depend on the batch size.

    Raises:
        ValueError: an unknown device or dtype, or weights that do not take RGB.
        fasti3d.weights.WeightsError: the weights cannot be downloaded or read.
    """

    def __init__(
        self,
        preset: Preset,
        source: weights.Spec,
        *,
        device: str = "auto",
        dtype: str = "float32",
        batch: int | None = None,
    ) -> None:
        if batch is not None and batch < 1:
            raise ValueError(f"batch must be at least 1, got {batch}")
        self.device = resolve_device(device)
        self.dtype = resolve_dtype(dtype, self.device)
        checkpoint = weights.load(source)
        if checkpoint.in_channels != 3:
            raise ValueError(
                f"weights must take RGB, but {checkpoint.source} takes {checkpoint.in_channels} channels"
            )
        self.weights = {"source": checkpoint.source, "sha256": checkpoint.sha256}
        self.width = checkpoint.num_classes
        self._preset = preset
        self._batch = batch
        self._network = I3D(checkpoint.num_classes)
        weights.load_into(self._network, checkpoint)
        for module in self._network.modules():
            if isinstance(module, nn.BatchNorm3d):
                module.eps = preset.bn_eps
        self._network.to(self.device, self.dtype).eval()
        self._weight, self._bias = (
            checkpoint.state_dict[f"logits.conv3d.{name}"].to(self.device, torch.float64).flatten(1 - i)
            for i, name in enumerate(("weight", "bias"))
        )

    def batch_size(self, frames: int) -> int:
        """Return the number of clips of ``frames`` frames per forward pass."""
        return self._batch or max(1, _FRAMES[self.device.type] // frames)

    def __call__(self, clips: Tensor, low: float, high: float) -> Tensor:
        """Return the features float64 (N, D) of clips (N, T, C, H, W) of values from ``low`` to ``high``.

        Raises:
            FloatingPointError: features that are not finite, as float16 can give with some weights.
        """
        parts = clips.split(self.batch_size(clips.shape[1]))
        found = []
        # A training loop's autocast would change the dtype that the receipt records, and TF32 the score.
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False), full_float32():
            here = upload(parts[0], self.device)
            for following in (*parts[1:], None):
                part = self._forward(here, low, high)
                if following is not None:
                    here = upload(following, self.device)  # while a GPU is busy with this one
                found.append(part.cpu())
        features = torch.cat(found)
        if not features.isfinite().all():
            raise FloatingPointError(f"the features are not finite in {self.dtype}: use dtype float32")
        return features

    def _forward(self, clips: Tensor, low: float, high: float) -> Tensor:
        x = prepare(clips, low, high, self._preset).to(self.dtype)
        with range_is_known():
            last = self._network.forward_endpoints(x, ("Mixed_5c",))["Mixed_5c"]
        pooled = head_pool(last.double()).mean(dim=(2, 3, 4))
        return F.linear(pooled, self._weight, self._bias)
