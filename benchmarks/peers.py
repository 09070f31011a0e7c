"""The implementations that are timed against each other, all of one network with the same weights.

A candidate is built for one case (shape, dtype, device) and is then a call without arguments that
runs the forward pass and returns logits. Its first call must agree with the float32 reference, or
no time is reported.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fasti3d
from benchmarks.folded_network import Convolve, convolve_then_relu, convolve_with_relu, folded
from benchmarks.gpu_timing import captured, synchronised
from fasti3d import reference

# Relative L2 error of the logits against the float32 reference on the same clip. Measured: 7e-7 in
# float32 (another order of summation), 5e-3 in bfloat16 (60 layers with 8 bits of mantissa). Wrong
# padding costs 4e-2.
LOGITS_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1.5e-2, torch.float16: 2e-3}

Forward = Callable[[], Tensor]


class UnavailableError(RuntimeError):
    """A candidate that this machine, or its releases, cannot run; the message says why."""


class Case(NamedTuple):
    """What one forward benchmark computes."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: str = "cpu"

    def __str__(self) -> str:
        return f"{'x'.join(map(str, self.shape))} {str(self.dtype).removeprefix('torch.')} {self.device}"


def random_reference(in_channels: int = 3) -> reference.I3D:
    """The float32 reference with weights that keep the maps' scale: its logits depend on the clip."""
    generator = torch.Generator().manual_seed(0)
    model = reference.I3D(in_channels=in_channels).eval()
    for module in model.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm3d):
            nn.init.normal_(module.bias, std=0.1, generator=generator)
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean, std=0.1, generator=generator)
            nn.init.uniform_(module.running_var, 0.5, 1.5, generator=generator)
    return model.requires_grad_(False)


def clip(case: Case) -> Tensor:
    """Smooth coloured noise in [-1, 1], rounded to the case's dtype: structure survives the pools."""
    n, c, t, h, w = case.shape
    generator = torch.Generator().manual_seed(1)
    coarse = torch.randn(n, c, max(t // 8, 1), 7, 7, generator=generator).to(case.device)
    smooth = F.interpolate(coarse, size=(t, h, w), mode="trilinear").clamp_(-1, 1)
    return smooth.to(case.dtype)


def _placed(model: nn.Module, case: Case, memory_format: torch.memory_format) -> tuple[nn.Module, Tensor]:
    """The model and its clip on the case's device, in its dtype and the given layout."""
    if case.device == "cuda":
        torch.backends.cudnn.benchmark = True
    model = model.to(case.device, case.dtype).to(memory_format=memory_format)  # type: ignore[call-overload]
    return model, clip(case).contiguous(memory_format=memory_format)


def _forward(model: Callable[[Tensor], Tensor], x: Tensor) -> Forward:
    def forward() -> Tensor:
        with torch.no_grad():
            logits = model(x)
            if x.is_cuda:
                torch.cuda.synchronize()
            return logits

    return forward


def our_network() -> fasti3d.I3D:
    """fasti3d's network with the reference's weights."""
    model = fasti3d.I3D().eval().requires_grad_(False)
    model.load_state_dict(random_reference().state_dict())
    return model


def _our_model(case: Case) -> tuple[nn.Module, Tensor]:
    return _placed(our_network(), case, torch.contiguous_format)


def _fasti3d(case: Case) -> Forward:
    return _forward(*_our_model(case))


def _fasti3d_compiled(case: Case) -> Forward:
    model, x = _our_model(case)
    return _forward(torch.compile(model, fullgraph=True), x)


def _reference(case: Case) -> Forward:
    return _forward(*_placed(random_reference(), case, torch.contiguous_format))


def _channels_last(case: Case) -> Forward:
    return _forward(*_placed(random_reference(), case, torch.channels_last_3d))


def _compile(case: Case, memory_format: torch.memory_format, options: dict[str, Any]) -> Forward:
    model, x = _placed(random_reference(), case, memory_format)
    # Constant weights, so that it folds the batch norms.
    forward = _forward(torch.compile(model, dynamic=False, options={"freezing": True, **options}), x)
    forward()  # compiles here
    return forward


def _compiled(case: Case) -> Forward:
    # In channels_last_3d because that is its fastest form: twice as fast as NCDHW on a CPU.
    return _compile(case, torch.channels_last_3d, {"triton.cudagraphs": case.device == "cuda"})


def _autotuned(memory_format: torch.memory_format) -> Callable[[Case], Forward]:
    def build(case: Case) -> Forward:
        options = torch._inductor.list_mode_options("max-autotune")  # a mode and options exclude each other
        return _compile(case, memory_format, options)

    return build


def _cudnn(convolve: Convolve) -> Callable[[Case], Forward]:
    """cuDNN as fast as plain PyTorch can ask for it; the clip lies in the graph's memory already."""

    def build(case: Case) -> Forward:
        model, x = _placed(folded(random_reference(), convolve), case, torch.channels_last_3d)
        with torch.no_grad():
            try:
                return synchronised(captured(lambda: model(x)))
            except RuntimeError as error:
                # Which of them cuDNN has kernels for depends on its release.
                if convolve is not convolve_with_relu:
                    raise
                raise UnavailableError(f"cuDNN has no such kernel: {error}") from error

    return build


@functools.lru_cache(maxsize=1)
def _openvino_model(shape: tuple[int, ...]) -> Any:
    return openvino_model(random_reference(), clip(Case(shape, torch.float32)))


def openvino_model(network: nn.Module, x: Tensor) -> Any:
    """A network as OpenVINO converts it, for clips of x's shape alone."""
    import openvino

    with torch.no_grad():
        # Traced here, because convert_model's own tracing runs the network several times more.
        traced = torch.jit.trace(network, x, check_trace=False)
        return openvino.convert_model(traced, example_input=x, input=[list(x.shape)])


def openvino_forward(model: Any, x: Tensor, dtype: torch.dtype) -> Forward:
    """A converted network on a float32 clip, which it converts to its inference precision itself."""
    import openvino

    config = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "bf16" if dtype == torch.bfloat16 else "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    request = openvino.Core().compile_model(model, "CPU", config).create_infer_request()
    array = x.numpy()

    def forward() -> Tensor:
        return torch.from_numpy(request.infer([array], share_inputs=True, share_outputs=True)[0])

    return forward


def _openvino(case: Case) -> Forward:
    return openvino_forward(_openvino_model(case.shape), clip(case).float(), case.dtype)


def _onnxruntime(case: Case) -> Forward:
    import onnxruntime

    x = clip(case)
    with torch.no_grad():
        network = folded(random_reference(), convolve_then_relu)
        # By torch.export: where it is traced by TorchScript, the pools' padding is no constant.
        program: Any = torch.onnx.export(network, (x,), input_names=["x"], dynamo=True, verbose=False)
    model = program.model_proto.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    values = {"x": x.numpy()}
    return lambda: torch.from_numpy(session.run(None, values)[0])


OURS = "fasti3d"
TUNED = "cuDNN, BN folded, channels_last_3d, CUDA graph"
COMPILED = "torch.compile"  # in the names of all that it compiles
AUTOTUNED = "torch.compile max-autotune"
GPU_CANDIDATES: dict[str, Callable[[Case], Forward]] = {
    TUNED: _cudnn(convolve_then_relu),
    f"{TUNED}, ReLU in the convolution": _cudnn(convolve_with_relu),
    AUTOTUNED: _autotuned(torch.contiguous_format),
    f"{AUTOTUNED}, channels_last_3d": _autotuned(torch.channels_last_3d),
}
CANDIDATES: dict[str, Callable[[Case], Forward]] = {
    OURS: _fasti3d,
    "fasti3d under torch.compile": _fasti3d_compiled,
    "reference": _reference,
    "reference, channels_last_3d": _channels_last,
    "torch.compile, channels_last_3d, freezing": _compiled,
    **GPU_CANDIDATES,
    "OpenVINO": _openvino,
    "ONNX Runtime": _onnxruntime,
}
# What others need, which runs on a CPU alone.
PACKAGES = {"OpenVINO": "openvino", "ONNX Runtime": "onnxruntime"}
# Clips that the float32 reference gets at once: it needs some 2 GB for each.
_REFERENCE_CLIPS = 4


@functools.lru_cache(maxsize=2)
def expected_logits(case: Case) -> Tensor:
    """The float32 reference's logits for the case's clip, computed on the case's device."""
    model = random_reference().to(case.device)
    parts = clip(case).float().split(_REFERENCE_CLIPS)
    cudnn: Any = torch.backends.cudnn
    before = cudnn.allow_tf32, cudnn.benchmark
    # TF32 keeps 10 bits of a mantissa; trying algorithms takes longer than the pass.
    cudnn.allow_tf32 = cudnn.benchmark = False
    try:
        with torch.no_grad():
            return torch.cat([model(part).cpu() for part in parts])
    finally:
        cudnn.allow_tf32, cudnn.benchmark = before


def relative_error(result: Tensor, expected: Tensor) -> float:
    """L2 norm of the difference over that of ``expected``, in float32 on the CPU."""
    expected = expected.detach().float().cpu()
    return ((result.detach().float().cpu() - expected).norm() / expected.norm()).item()
