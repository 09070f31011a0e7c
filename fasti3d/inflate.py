"""2-D Inception-v1 weights of ImageNet, inflated into I3D.

Source: Carreira & Zisserman, "Quo Vadis, Action Recognition?" (CVPR 2017), "Bootstrapping 3D filters from 2D
Filters": on a video of one repeated image the inflated network computes the 2-D network's result on the
image, at the steps without padding in time (Mixed_5c has its first such step in clips of 101 frames).

Two public forms of the 2-D network are read, torchvision's GoogLeNet and the TF-slim variables that it was
converted from. Both were trained on values in [-1, 1], with batch norm of eps 1e-3 and 3x3 convolutions in
branch 2, so the weights need no conversion. (torchvision's ``transform_input`` only maps its normalized
images back to [-1, 1]; nothing has to be folded into the stem.) torchvision pads the stem by one more pixel
in front than TensorFlow and I3D, which shifts its feature maps by one pixel and changes no weight.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from os import PathLike

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fasti3d import reference
from fasti3d.choices import check_inflation
from fasti3d.utils.parsing import brief
from fasti3d.weights import formats
from fasti3d.weights.checkpoint import Checkpoint, Source, contents_of, digest, standard
from fasti3d.weights.containers import Contents
from fasti3d.weights.errors import WeightsError
from fasti3d.weights.formats import Format, Recognized, tensor_keys
from fasti3d.weights.labels import KINETICS_400_LABELS
from fasti3d.weights.loading import opened, save
from fasti3d.weights.paths import Spec, find_file

# Of batch norm, in both public forms of the 2-D network.
_EPS = 1e-3

# torchvision's letters lag I3D's by one, which count the max-pool before a block.
_TORCHVISION_BLOCKS = {
    "inception3a": "Mixed_3b",
    "inception3b": "Mixed_3c",
    "inception4a": "Mixed_4b",
    "inception4b": "Mixed_4c",
    "inception4c": "Mixed_4d",
    "inception4d": "Mixed_4e",
    "inception4e": "Mixed_4f",
    "inception5a": "Mixed_5b",
    "inception5b": "Mixed_5c",
}
_TORCHVISION_BRANCHES = {
    "branch1": "b0",
    "branch2.0": "b1a",
    "branch2.1": "b1b",
    "branch3.0": "b2a",
    "branch3.1": "b2b",
    "branch4.1": "b3b",
}
_TORCHVISION_UNITS = {"conv1": "Conv3d_1a_7x7", "conv2": "Conv3d_2b_1x1", "conv3": "Conv3d_2c_3x3"} | {
    f"{block}.{branch}": f"{_TORCHVISION_BLOCKS[block]}.{_TORCHVISION_BRANCHES[branch]}"
    for block in _TORCHVISION_BLOCKS
    for branch in _TORCHVISION_BRANCHES
}
_TORCHVISION_LEAVES = {
    "{}.conv.weight": "conv3d.weight",
    "{}.bn.weight": "bn.weight",
    "{}.bn.bias": "bn.bias",
    "{}.bn.running_mean": "bn.running_mean",
    "{}.bn.running_var": "bn.running_var",
    "{}.bn.num_batches_tracked": "bn.num_batches_tracked",
}
# DeepMind's I3D kept TF-slim's names, the misnamed convolution of Mixed_5b included.
_SLIM_UNITS = {
    theirs.replace("Conv3d", "Conv2d"): ours
    for theirs, ours in formats.TENSORFLOW_UNITS.items()
    if ours != "logits"
}
_SLIM_LEAVES = {
    "{}/weights": "conv3d.weight",
    "{}/BatchNorm/gamma": "bn.weight",
    "{}/BatchNorm/beta": "bn.bias",
    "{}/BatchNorm/moving_mean": "bn.running_mean",
    "{}/BatchNorm/moving_variance": "bn.running_var",
}
_FORMATS = (
    Format("torchvision-googlenet", tensor_keys(_TORCHVISION_UNITS, _TORCHVISION_LEAVES)),
    Format("tf-slim-inception-v1", tensor_keys(_SLIM_UNITS, _SLIM_LEAVES), tensorflow=True),
)
# Every tensor of I3D's trunk, in our names.
_TRUNK = tuple(_FORMATS[0].keys.values())

# The part of either network that a key belongs to: a block of the trunk, or one of the classifiers.
_PART = re.compile(
    r"(?:^|[./])(?:(?P<trunk>conv\d|inception\d\w*|(?:Conv2d|Mixed)_\d\w*)|fc|aux\d|(?:Aux)?Logits)[./]"
)
# What follows the name of a convolution with its batch norm.
_LEAF = re.compile(r"(\.(conv|bn)\.\w+|/(\w*weights|biases|BatchNorm/\w+)(:0)?)$")
_CAFFE = "the first GoogLeNet (Caffe's), which has 5x5 convolutions and no batch norm"
# Keys that identify other networks; the first match counts.
_OTHERS = {
    r"double_3x3": "BN-Inception (Inception v2)",
    r"inception_\d[a-e][/_.]|conv1[/_]7x7": _CAFFE,
    r"Inception(V[234]|Resnet)|Mixed_\d[a-e]\.branch": "a later Inception than v1",
    r"(^|\.)layer[1-4]\.\d+\.(conv|bn)\d": "a ResNet",
}
_SHOWN = 3


@dataclass(frozen=True)
class InflationReport:
    """Which tensors were filled, not used, and left new.

    Attributes:
        format: the naming scheme of the 2-D weights: ``torchvision-googlenet`` or ``tf-slim-inception-v1``.
        filled: tensors of the network that were filled, by the network's names.
        unused: tensors of the 2-D weights that I3D has no place for (the ImageNet classifiers, step
            counts, an optimizer's state), by the weights' own names.
        new: tensors of the network that keep their values: its classifier.
    """

    format: str
    filled: tuple[str, ...] = field(repr=False)
    unused: tuple[str, ...]
    new: tuple[str, ...]


def inflate_conv2d(weight: Tensor, time: int, mode: str = "average") -> Tensor:
    """Inflate the filters of a 2-D convolution to those of a 3-D one.

    ``"average"`` is the paper's: every frame of the window gets the 2-D filter divided by ``time``. The
    response to a still clip is the 2-D one wherever the window lies within the clip; at its ends part of the
    window is zero padding. ``"centre"`` puts the filter on the middle frame and zeros on the others (Girdhar
    et al., "Detect-and-Track", CVPR 2018): the response is the 2-D one at every step.

    Args:
        weight: (out, in, H, W), floating point.
        time: frames of the window, at least 1. For an even number the earlier middle frame is used, which
            with SAME padding is always inside of the clip.
        mode: ``"average"`` or ``"centre"``.

    Returns:
        (out, in, time, H, W), contiguous, in the dtype and on the device of ``weight``.

    Raises:
        ValueError: an argument is out of range, or ``weight`` has another shape or dtype.

    Example:
        >>> inflate_conv2d(torch.ones(64, 3, 7, 7), 7).shape
        torch.Size([64, 3, 7, 7, 7])
    """
    check_inflation(mode)
    if weight.ndim != 4 or not weight.is_floating_point():
        raise ValueError(
            "weight must be (out, in, H, W) in floating point,"
            f" got {weight.dtype} of shape {tuple(weight.shape)}"
        )
    if time < 1:
        raise ValueError(f"time must be at least 1, got {time}")
    weight = weight.unsqueeze(2)
    if mode == "average":
        return (weight / time).expand(-1, -1, time, -1, -1).contiguous()
    before = (time - 1) // 2
    return F.pad(weight, (0, 0, 0, 0, before, time - 1 - before)).contiguous()


def inflate(state_dict_2d: Spec, model: nn.Module, mode: str = "average") -> InflationReport:
    """Fill the trunk of an I3D with the weights of a 2-D Inception-v1.

    The parameters and statistics of BatchNorm are copied; TensorFlow's has no scale, which becomes 1. If the
    network does not take 3 channels (the flow stream), each channel gets the mean over the colors. Two equal
    channels then respond with 2/3 of what three colors give: re-estimate the running statistics of
    ``Conv3d_1a_7x7`` on flow before using such a network in eval mode. The classifier keeps its values. If
    anything does not fit, no tensor of the network is changed.

    Args:
        state_dict_2d: tensors or NumPy arrays by torchvision's GoogLeNet names or TF-slim's Inception-v1
            names, complete; ``fc``, ``aux1``, ``aux2`` and ``Logits`` are optional. Wrappers
            (``{"state_dict": ...}``) and prefixes (``module.``, ``InceptionV1/``) are removed. Also the path
            of a file of them, or one open for binary reading: what ``torch.save`` writes, safetensors or
            npz. No code in a file is ever run.
        model: ``fasti3d.I3D``, a class of ``fasti3d.compat``, or a module that holds one. A truncated network
            takes the weights of its blocks.
        mode: ``"average"`` or ``"centre"``, see ``inflate_conv2d``.

    Returns:
        The names of the tensors that were filled, not used, and left new.

    Raises:
        fasti3d.weights.WeightsError: the weights are of another network or do not fit, or a file cannot be
            read. The message names the first three units that are missing, unexpected or of another shape.
        ValueError: an unknown mode, or a model on the meta device.
        TypeError: ``state_dict_2d`` is neither a state dict nor a file.
        MemoryError, OSError: memory or file descriptors ran out.

    Example:
        >>> model = fasti3d.I3D(num_classes=101)
        >>> weights = torchvision.models.googlenet(weights="DEFAULT").state_dict()  # doctest: +SKIP
        >>> inflate(weights, model).new  # doctest: +SKIP
        ('logits.conv3d.weight', 'logits.conv3d.bias')
    """
    check_inflation(mode)
    source = _source(state_dict_2d, "state_dict_2d")
    wanted = _wanted(model)
    if any(tensor.is_meta for tensor in wanted.tensors.values()):
        raise ValueError("model is on the meta device: give it memory first, with model.to_empty(device=...)")
    with contents_of(source) as (contents, _):
        tensors, report = _inflated(contents, model, wanted, mode)
    state_dict = model.state_dict()
    before = {name: state_dict[name].clone() for name in tensors}
    try:
        model.load_state_dict(tensors, strict=False)
    except BaseException:  # a hook of the user's, a parameter that cannot be written to, an interrupt
        with torch.no_grad():
            for name, tensor in before.items():
                if not torch.equal(state_dict[name], tensor):
                    state_dict[name].copy_(tensor)
        raise
    return report


def inflate_file(
    src: Spec, dst: str | PathLike[str], *, flow: bool = False, mode: str = "average"
) -> InflationReport:
    """Inflate a file of 2-D weights to one that ``fasti3d.I3D(weights=dst)`` loads.

    The result is a safetensors file for 400 classes without labels, written atomically. Its classifier is
    new (normal of 0.01, the same in every file): train it, or call ``replace_logits``.

    Args:
        src: as for ``inflate``.
        dst: the file to write; an existing one is replaced.
        flow: inflate for 2 channels of optical flow in place of 3 colors.
        mode: ``"average"`` or ``"centre"``, see ``inflate_conv2d``.

    Raises:
        fasti3d.weights.WeightsError: as ``inflate``, or ``dst`` cannot be written, or is ``src``.
        ValueError: an unknown mode.
        TypeError, MemoryError, OSError: as ``inflate``.

    Example:
        >>> inflate_file("googlenet-1378be20.pth", "flow.safetensors", flow=True)  # doctest: +SKIP
    """
    check_inflation(mode)
    source = _source(src, "src")
    num_classes, in_channels = len(KINETICS_400_LABELS), 2 if flow else 3
    with torch.device("meta"):
        model = reference.I3D(num_classes, in_channels)
    wanted = _wanted(model)
    with contents_of(source) as (contents, name):
        tensors, report = _inflated(contents, model, wanted, mode)
        sha256 = contents.sha256
    state_dict = tensors | _new_classifier(model)
    checkpoint = Checkpoint(
        state_dict=state_dict,
        format=report.format,
        source=f"{name}, inflated ({mode})",
        sha256=sha256 or digest(state_dict),
        num_classes=num_classes,
        in_channels=in_channels,
        labels=None,
    )
    save(checkpoint, dst, source=source)
    return report


def _source(spec: Spec, argument: str) -> Source:
    """Where 2-D weights are read from; names of public I3D weights do not count."""
    if not isinstance(spec, str | PathLike):
        return opened(spec, argument, "a path")
    try:
        return find_file(spec)
    except WeightsError as error:
        raise WeightsError(f"{brief(spec, 300)} cannot be read: {error}") from error


def _new_classifier(model: reference.I3D) -> dict[str, Tensor]:
    """A classifier as TF-slim initializes them, the same every time."""
    weight = torch.empty(model.logits.conv3d.weight.shape, device="cpu")
    nn.init.trunc_normal_(weight, std=0.01, a=-0.02, b=0.02, generator=torch.Generator().manual_seed(0))
    return {formats.CLASSIFIER: weight, formats.CLASSIFIER_BIAS: torch.zeros(weight.shape[0])}


def _wanted(model: nn.Module) -> Recognized:
    """The tensors of a network to fill.

    Raises:
        WeightsError: it is not an I3D, or its batch norm has another eps.
    """
    try:
        wanted = formats.recognize({"": model.state_dict()})
    except WeightsError as error:
        raise WeightsError(f"the network, {type(model).__name__}, is not an I3D: {error}") from error
    _check_eps(model, wanted)
    return wanted


def _inflated(
    contents: Contents, model: nn.Module, wanted: Recognized, mode: str
) -> tuple[dict[str, Tensor], InflationReport]:
    """The tensors of ``model`` that 2-D weights fill, by the model's names; the model is not changed."""
    groups = contents.groups
    found = formats.find(groups, _FORMATS, "2-D Inception-v1")
    given = [_full(group, key) for group, keys in groups.items() for key in keys]
    if found is None:
        raise WeightsError(
            f"no 2-D Inception-v1 weights in it: {len(given)} tensors ({_some(given)}){_advice(groups)}"
        )
    blocks = {_block(name) for name in wanted.names}
    trunk = [name for name in _TRUNK if _block(name) in blocks]
    _fill(found, wanted)
    if problems := _problems(found, wanted, trunk):
        advice = _advice(groups, found.tensors.values())
        raise WeightsError(f"it has {found.format.name} names but does not fit: {problems}{advice}")

    tensors = {}
    for name in trunk:
        tensor = standard(found.names.get(name, name), found.tensors[name])
        if name.endswith("conv3d.weight"):
            _, channels, time, *_ = wanted.tensors[name].shape
            if tensor.shape[1] != channels:
                tensor = tensor.mean(1, keepdim=True).expand(-1, channels, -1, -1)
            tensor = inflate_conv2d(tensor, time, mode)
        tensors[wanted.names[name]] = tensor
    used = {_full(found.group, found.names[name]) for name in trunk if name in found.names}
    return tensors, InflationReport(
        format=found.format.name,
        filled=tuple(tensors),
        unused=tuple(key for key in given if key not in used),
        new=tuple(key for key in model.state_dict() if key not in tensors),
    )


def _full(group: str, key: str) -> str:
    """The name of a tensor in a dict that sits there."""
    return f"{group}.{key}" if group else key


def _block(name: str) -> str:
    return name.split(".")[0]


def _check_eps(model: nn.Module, wanted: Recognized) -> None:
    """Raise a WeightsError for a network whose BatchNorm has another eps."""
    for ours, name in wanted.names.items():
        if ours.endswith("bn.running_var"):
            norm = name.rpartition(".")[0]
            eps = getattr(model.get_submodule(norm), "eps", _EPS)
            if eps != _EPS:
                raise WeightsError(
                    f"these weights were trained with a batch norm of eps {_EPS}, and that of the network has"
                    f" {eps} at {norm}: set it to {_EPS} first"
                )


def _fill(found: Recognized, wanted: Recognized) -> None:
    """Adds what a format leaves out: step counts, and the scale of TensorFlow's batch norm."""
    has_scale = any(name.endswith("bn.weight") for name in found.tensors)
    for name, tensor in wanted.tensors.items():
        if name.endswith("bn.num_batches_tracked"):
            found.tensors.setdefault(name, torch.zeros((), dtype=torch.int64))
        elif found.format.tensorflow and not has_scale and name.endswith("bn.weight"):
            found.tensors[name] = torch.ones(tensor.shape)


def _problems(found: Recognized, wanted: Recognized, trunk: list[str]) -> str:
    """What keeps the weights from filling the trunk of the network; empty if nothing does."""
    theirs = {ours: found.prefix + key for key, ours in found.format.keys.items()}
    known = {key.removesuffix(":0") for key in found.names.values()}
    shapes = {name: _shape_2d(name, wanted.tensors[name]) for name in trunk if name in wanted.tensors}
    problems = {
        "missing": [theirs[name] for name in trunk if name not in found.tensors],
        "unexpected": [key for key in found.unexpected if _is_of_trunk(key, known)],
        "of another shape": [
            f"{found.names.get(name, name)} {tuple(found.tensors[name].shape)} where {shape} is expected"
            for name, shape in shapes.items()
            if name in found.tensors and found.tensors[name].shape != shape
        ],
        "not in the network": [name for name in trunk if name not in wanted.tensors],
    }
    return "; ".join(f"{kind}: {_some(_one_per_unit(keys))}" for kind, keys in problems.items() if keys)


def _shape_2d(name: str, tensor: Tensor) -> tuple[int, ...]:
    """The shape of what fills a tensor of the network; a stem takes three colors."""
    if not name.endswith("conv3d.weight"):
        return tuple(tensor.shape)
    out, channels, _, height, width = tensor.shape
    return out, 3 if name == formats.STEM else channels, height, width


def _is_of_trunk(key: str, known: set[str]) -> bool:
    """Whether an unexpected key is a part of the network that I3D lacks, and not only of no use here."""
    if key.rpartition("/")[0] in known:
        return False  # the state of an optimizer, or an average
    part = _PART.search(key)
    return bool(_LEAF.search(key)) if part is None else part["trunk"] is not None


def _one_per_unit(keys: Iterable[str]) -> list[str]:
    """The first key of each convolution with its batch norm."""
    units: dict[str, str] = {}
    for key in keys:
        units.setdefault(_LEAF.sub("", key), key)
    return list(units.values())


def _some(keys: Iterable[str]) -> str:
    first, more = list(keys)[:_SHOWN], len(list(keys)) - _SHOWN
    return ", ".join(brief(key, 200) for key in first) + (f" and {more} more" if more > 0 else "")


def _advice(groups: Mapping[str, Mapping[str, Tensor]], tensors: Iterable[Tensor] = ()) -> str:
    """What the weights are instead, if their names or shapes tell."""
    keys = [key for named in groups.values() for key in named]
    for pattern, other in _OTHERS.items():
        if any(re.search(pattern, key) for key in keys):
            return f"; these look like the weights of {other}"
    if any((5, 5) in (tensor.shape[:2], tensor.shape[2:]) for tensor in tensors):
        return f"; these look like the weights of {_CAFFE}"
    if ranked := formats.places(groups, formats.FORMATS):
        (place, _), *_ = ranked
        return f"; this is an I3D already, in {place.format.name} names: I3D(weights=...) loads it"
    return ""
