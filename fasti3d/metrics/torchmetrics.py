"""Fréchet Video Distance as a metric of torchmetrics, where that is installed."""

from __future__ import annotations

import hashlib
import json
from functools import reduce
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from fasti3d.metrics import metric
from fasti3d.metrics.statistics import Statistics
from fasti3d.weights import Spec

try:
    from torchmetrics import Metric
except ImportError as error:
    raise ImportError("fasti3d.metrics.torchmetrics needs torchmetrics: pip install torchmetrics") from error

_SIDES = {True: "real", False: "generated"}
_KINDS = (None, "uint8", "float")
# Below every height and width, of either sign.
_NO_SIZE = -(1 << 31)


class FrechetVideoDistance(Metric):
    """``fasti3d.FrechetVideoDistance`` as a ``torchmetrics.Metric``, with the same scores.

    It goes into a ``MetricCollection``, also beside others of other settings. The state is the count, mean
    and scatter of each side's features in float64; those of several processes or batches are merged. It
    follows ``.to(device)``, and is in the state dict after ``persistent(True)``, as with every metric there.
    A state of other settings is refused.

    ``forward`` adds a batch like ``update``. It returns NaN, since a batch is of one side.

    Args:
        preset, weights, layout, value_range, dtype, batch: as for ``fasti3d.FrechetVideoDistance``.
        network_device: of the network: auto, cpu, cuda or cuda:N.
        reset_real_features: whether ``reset`` removes the real clips too.
        **kwargs: as for ``torchmetrics.Metric``.

    Raises:
        ValueError: an argument is out of range, or the weights do not take RGB.
        fasti3d.weights.WeightsError: the weights cannot be downloaded or read.

    Example:
        >>> from torchmetrics import MetricCollection
        >>> from fasti3d.metrics.torchmetrics import FrechetVideoDistance
        >>> fvd = {name: FrechetVideoDistance(name) for name in ("tf", "videogpt")}  # doctest: +SKIP
        >>> metrics = MetricCollection(fvd)  # doctest: +SKIP
        >>> metrics.update(clips, real=True)  # doctest: +SKIP
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    plot_lower_bound = 0.0

    real_moments: Tensor
    generated_moments: Tensor
    real_sizes: Tensor
    generated_sizes: Tensor
    clip_kind: Tensor
    settings: Tensor

    def __init__(
        self,
        preset: str = "tf",
        weights: Spec = "kinetics400-rgb",
        *,
        layout: str = "NTHWC",
        value_range: tuple[float, float] | None = None,
        network_device: str = "auto",
        dtype: str = "float32",
        batch: int | None = None,
        reset_real_features: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.reset_real_features = reset_real_features
        self._plain = metric.FrechetVideoDistance(
            preset,
            weights,
            layout=layout,
            value_range=value_range,
            device=network_device,
            dtype=dtype,
            batch=batch,
            sync=False,
        )
        empty = self._plain.state_dict()
        # Tells this metric from those of other settings, whose states may be equal for a while: a
        # MetricCollection would then update only one of them. Early ones compare only the first state.
        settings = [preset, empty["weights"], layout, value_range, dtype]
        digest = hashlib.sha256(json.dumps(settings).encode()).digest()
        self._settings = torch.tensor(list(digest), dtype=torch.uint8)
        self.add_state("settings", self._settings, dist_reduce_fx=_one_setting)
        for side in _SIDES.values():
            self.add_state(f"{side}_moments", _packed(empty[side]), dist_reduce_fx=_merged)
            self.add_state(f"{side}_sizes", torch.full((4,), _NO_SIZE), dist_reduce_fx="max")
        self.add_state("clip_kind", torch.zeros(2, dtype=torch.int64), dist_reduce_fx=_one_kind)

    def update(self, clips: NDArray[Any] | Tensor, real: bool) -> None:
        """Add clips to the real or the generated side.

        Args:
            clips: in the metric's layout, with 3 channels, at least 9 frames and any frame size; uint8, or
                floating point in the metric's value range. On any device.
            real: whether to add them to the real side.

        Raises:
            TypeError, ValueError, FloatingPointError: as ``fasti3d.FrechetVideoDistance.update``.
        """
        self._check_settings()
        self._plain.load_state_dict(self._plain_state() | self._of_no_clips())
        self._plain.update(clips, real)
        state = self._plain.state_dict()
        side = _SIDES[bool(real)]
        kept = getattr(self, f"{side}_moments")
        setattr(self, f"{side}_moments", _merged(torch.stack((kept, _packed(state[side]).to(kept.device)))))
        sizes = getattr(self, f"{side}_sizes")
        for height, width, _ in state[side]["sizes"]:
            here = sizes.new_tensor([height, width, -height, -width])
            setattr(self, f"{side}_sizes", torch.maximum(sizes, here))
        kind = [state["frames"] or 0, _KINDS.index(state["kind"])]
        self.clip_kind = self.clip_kind.new_tensor(kind)

    def compute(self) -> Tensor:
        """Return the score as a float64 tensor without axes, on the metric's device.

        Raises:
            ValueError: fewer than 2 clips on a side, or a state of other settings.

        Warns:
            UserWarning: fewer than 256 clips on a side, or frame sizes that differ between the sides.
        """
        self._check_settings()
        self._plain.load_state_dict(self._plain_state())
        return self._plain.compute().to(self.real_moments.device)

    def forward(self, clips: NDArray[Any] | Tensor, real: bool) -> Tensor:
        """Add clips like ``update``; the value of a batch, which is of one side, is NaN."""
        self.update(clips, real)
        value = self.real_moments.new_tensor(float("nan"))
        self._forward_cache = value  # type: ignore[assignment]  # where Lightning looks
        return value

    def reset(self) -> None:
        """Remove all clips; the real ones are kept where ``reset_real_features`` is off."""
        kept = {name: getattr(self, name) for name in ("real_moments", "real_sizes", "clip_kind")}
        super().reset()
        if not self.reset_real_features:
            for name, value in kept.items():
                setattr(self, name, value)

    def _check_settings(self) -> None:
        if not torch.equal(self.settings.cpu(), self._settings):
            raise ValueError(
                "the state loaded or merged is of a metric with other settings (preset, weights, layout, "
                "value_range or dtype): use one of the same settings"
            )

    def _plain_state(self) -> dict[str, Any]:
        """The state as the plain metric's."""
        frames, kind = self.clip_kind.tolist()
        header = {"frames": frames or None, "kind": _KINDS[kind]}
        sides = {
            side: _unpacked(getattr(self, f"{side}_moments"), getattr(self, f"{side}_sizes").tolist())
            for side in _SIDES.values()
        }
        return self._plain.state_dict() | header | sides

    def _of_no_clips(self) -> dict[str, Any]:
        """Both sides without clips."""
        empty = torch.zeros_like(self.real_moments)
        return {side: _unpacked(empty, []) for side in _SIDES.values()}


def _packed(side: dict[str, Any]) -> Tensor:
    """A side's count, mean and scatter as one tensor, float64 (D + 2, D), which is merged as a whole."""
    mean = side["mean"]
    return torch.cat((torch.full_like(mean, side["count"])[None], mean[None], side["scatter"]))


def _statistics(moments: Tensor) -> Statistics:
    return Statistics(int(moments[0, 0]), moments[1], moments[2:])


def _unpacked(moments: Tensor, sizes: list[int]) -> dict[str, Any]:
    """A side's state of the plain metric; of its frames' sizes only the largest and smallest are known."""
    its = _statistics(moments)
    counts = []
    if its.count:
        height, width, low_height, low_width = sizes
        counts = [[height, width, its.count - 1], [-low_height, -low_width, 1]]
    return {"count": its.count, "mean": its.mean, "scatter": its.scatter, "sizes": counts, "features": None}


def _merged(parts: Tensor) -> Tensor:
    """The moments of the clips of all parts, (K, D + 2, D)."""
    whole = reduce(Statistics.merged, map(_statistics, parts))
    return _packed({"count": whole.count, "mean": whole.mean, "scatter": whole.scatter})


def _one_kind(parts: Tensor) -> Tensor:
    """The frames and kind of values of all parts, (K, 2), where zeros stand for no clips."""
    kinds = {(frames, kind) for frames, kind in parts.tolist() if frames}
    if len(kinds) > 1:
        shown = sorted((frames, _KINDS[kind]) for frames, kind in kinds)
        raise ValueError(f"clips must be of one kind in all processes, got (frames, values) {shown}")
    return parts.new_tensor(next(iter(kinds), (0, 0)))


def _one_setting(parts: Tensor) -> Tensor:
    """The settings of all parts."""
    if not bool((parts == parts[0]).all()):
        raise ValueError("metrics of different settings cannot be merged: use the same in all processes")
    return parts[0]
