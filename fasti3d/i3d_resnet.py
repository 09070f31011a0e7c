"""The I3D-ResNet that users import: an ordinary PyTorch module that runs fused in eval mode."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from fasti3d.engine.describe.description import Description
from fasti3d.engine.describe.resnet import describe, known_stem, watch
from fasti3d.engine.describe.watch import Watch
from fasti3d.fused import FusedNetwork, Kept
from fasti3d.inputs import Scaling, as_floats, check_clip, check_range
from fasti3d.resnet import reference
from fasti3d.resnet.variants import FEATURE_CHANNELS, check_network
from fasti3d.widths import out_width

if TYPE_CHECKING:
    from fasti3d.weights import Spec
    from fasti3d.weights.resnet_checkpoint import ResNetCheckpoint

_LAST = "res5"


class I3DResNet(FusedNetwork, reference.I3DResNet):
    """I3D-ResNet (Wang et al., "Non-local Neural Networks", CVPR 2018): a drop-in PyTorch backbone.

    What mmaction2, PySlowFast and pytorchvideo call I3D, and the network of most features for video anomaly
    detection. There is no default variant: implementations differ in the stride of the stem, in pooling and
    in non-local blocks, which decides a factor of 3.4 in work and all of the result.

    In training mode, where gradients are needed and in graphs of compilers it is an ordinary differentiable
    module. In eval mode under ``torch.no_grad()`` or ``torch.inference_mode()`` it runs fused, as
    ``fasti3d.I3D`` does: batch norm folded, ReLUs and sums inside the convolutions. Where a submodule carries
    a hook or was replaced by a module that is not known, the ordinary path runs.

    Clips are ``(N, 3, T, H, W)``, floating point and normalized as the implementation does, or uint8 RGB of 0
    to 255, which is normalized here: ``fasti3d.resnet.variants.VARIANTS[variant].preprocessing``.

    Parameter names are those of Tushar-N/pytorch-resnet3d: state dicts load both ways.

    Args:
        variant: ``"caffe2-32x2"``, ``"caffe2-8x8"`` (video-nonlocal-net and its PyTorch port),
            ``"pytorchvideo-8x8"`` (also PySlowFast's I3D_8x8), ``"mmaction2-32x2"``, ``"mmaction2-heavy"``,
            ``"slow-8x8"`` or ``"c2d-8x8"``; the numbers are frames and their step.
        depth: 50 or 101.
        non_local: what its non-local blocks compute: ``"embedded_gaussian"``, ``"dot_product"`` or
            ``"gaussian"``, as far as the implementation has them; None for a network without such blocks.
        num_classes: classes of the head; None takes those of the weights, or the 400 of Kinetics-400.
        weights: the path of a file of one of these implementations, a folder with one, such a file open for
            binary reading, or a state dict (``fasti3d.weights.load_resnet``); None initializes at random.
        dropout: probability of dropping a feature before the classifier, in training mode.

    Attributes:
        endpoints: the names that ``forward_endpoints`` takes.
        num_classes: those of the classifier that is there.
        labels: class names in logit order, where the weights bring them.

    Raises:
        ValueError: an unknown variant, or one without such networks.
        fasti3d.weights.WeightsError: weights that cannot be read, or are of another variant, depth or kind.

    Example:
        >>> model = fasti3d.I3DResNet("pytorchvideo-8x8", num_classes=7).eval()
        >>> with torch.no_grad():
        ...     features = model.extract_features(torch.zeros(1, 3, 8, 224, 224))
        >>> features.shape
        torch.Size([1, 2048, 1])
    """

    _reference: ClassVar[type[nn.Module]] = reference.I3DResNet
    _ordinary: ClassVar[Any] = reference.I3DResNet.forward_endpoints
    _classifier: ClassVar[str] = "fc"

    def __init__(
        self,
        variant: str,
        depth: int = 50,
        non_local: str | None = None,
        num_classes: int | None = None,
        *,
        weights: Spec | None = None,
        dropout: float = 0.5,
    ) -> None:
        check_network(variant, depth, non_local)
        checkpoint = None if weights is None else _checkpoint_of(weights)
        if checkpoint is not None:
            from fasti3d.weights.resnet_checkpoint import check_fits

            check_fits(checkpoint, variant, depth, non_local)
        if num_classes is None:
            num_classes = 400 if checkpoint is None else checkpoint.num_classes
        super().__init__(variant, depth, non_local, num_classes, dropout=dropout)
        if checkpoint is not None:
            self._load(checkpoint)

    @classmethod
    def from_pretrained(
        cls,
        source: Spec,
        variant: str | None = None,
        non_local: str | None = None,
        **options: Any,
    ) -> I3DResNet:
        """Build a network in eval mode from weights, with their depth, classes and labels.

        Args:
            source: what ``weights`` takes.
            variant: may be left out where the file says it, as those of ``save_pretrained`` do.
            non_local: may be left out where the weights fit one kind only.
            **options: further arguments of the class, such as ``dropout``.

        Raises:
            fasti3d.weights.WeightsError: the weights cannot be read, or fit several variants or kinds of
                non-local blocks, of which none was given.
        """
        from fasti3d.weights import WeightsError

        checkpoint = _checkpoint_of(source)
        if variant is None:
            if len(checkpoint.variants) > 1:
                raise WeightsError(
                    f"the weights of {checkpoint.source} may be of the variants "
                    f"{', '.join(checkpoint.variants)}, which differ in strides and pools: say variant="
                )
            (variant,) = checkpoint.variants
        if non_local is None and len(checkpoint.non_local) > 1:
            raise WeightsError(
                f"the non-local blocks of {checkpoint.source} may be {' or '.join(checkpoint.non_local)}: "
                "say non_local="
            )
        if non_local is None and checkpoint.non_local:
            (non_local,) = checkpoint.non_local
        from fasti3d.weights.resnet_checkpoint import check_fits

        check_fits(checkpoint, variant, checkpoint.depth, non_local)
        model = cls(variant, checkpoint.depth, non_local, checkpoint.num_classes, **options)
        model._load(checkpoint)
        return model.eval()

    def save_pretrained(self, folder: str | PathLike[str]) -> Path:
        """Write weights, variant and labels to ``model.safetensors`` in a folder, for ``from_pretrained``.

        Raises:
            fasti3d.weights.WeightsError: the folder cannot be written to, or parts were replaced so that the
                network is no longer a complete one of its variant.
        """
        from fasti3d.weights.resnet_checkpoint import save_resnet

        its = self.table.preprocessing.name
        return save_resnet(self.state_dict(), self.variant, self.non_local, self.labels, folder, its)

    def _load(self, checkpoint: ResNetCheckpoint) -> None:
        from fasti3d.weights.resnet_checkpoint import load_resnet_into

        load_resnet_into(self, checkpoint)
        self.table = self.table._replace(preprocessing=checkpoint.preprocessing_for(self.variant))
        self.labels = checkpoint.labels

    def replace_logits(self, num_classes: int) -> None:
        """Puts a freshly initialized classifier of ``num_classes`` in place, as fine-tuning needs."""
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        like = next((p for p in self.parameters() if p.is_floating_point()), torch.empty(0))
        fc = nn.Linear(out_width(getattr(self, "layer4", None)) or FEATURE_CHANNELS, num_classes)
        self.fc = fc.to(like.device, like.dtype).train(self.training)

    @property
    def num_classes(self) -> int | None:
        """Classes of the classifier that is there; None where that does not say."""
        return out_width(getattr(self, "fc", None))

    def _outputs(self) -> Sequence[str]:
        return self.endpoints

    def _maps(self) -> tuple[str, ...]:
        return tuple(self._trunk())

    def _last(self) -> str:
        return _LAST

    def _described(self, names: tuple[str, ...]) -> Description:
        return describe(self, self._trunk(), self._scaling())

    def _watch(self, names: tuple[str, ...]) -> Watch:
        return watch(self, self._trunk())

    def _check(self, x: Tensor, wanted: set[str], kept: Kept | None) -> torch.dtype:
        channels: int | None = None
        dtype: torch.dtype | None = None
        if (stem := known_stem(self)) is not None:
            channels, dtype = stem.weight.shape[1], stem.weight.dtype
        check_clip(x, channels, dtype)
        return self._dtype_of(x, wanted)

    def _as_floats(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        return as_floats(x, dtype, self._scaling())

    def _scaling(self) -> Scaling:
        """Of clips of bytes."""
        its = self.table.preprocessing
        return Scaling(its.mean, its.std)

    def _check_range(self, x: Tensor) -> None:
        check_range(x, normalized=True)


def _checkpoint_of(weights: Spec) -> ResNetCheckpoint:
    # Here and not at the top: most users of the module bring no weights, and reading checkpoints takes
    # packages that are slow to import.
    from fasti3d.weights.loading import load_resnet

    return load_resnet(weights)
