"""Batch norm over the clips of all processes, on a CPU as well, where torch's own and its DDP refuse."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fasti3d.reference import BatchNorm3d


class SyncBatchNorm3d(BatchNorm3d):
    """``BatchNorm3d`` whose statistics in training mode are those of all processes' clips."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        from torch.distributed.nn.functional import all_reduce

        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        values = x if x.dtype is torch.float64 else x.float()
        axes, shape = (0, 2, 3, 4), (1, -1, 1, 1, 1)
        # Of processes whose batches differ in size; the sum of squares around the mean loses no digits.
        count = all_reduce(values.new_tensor(float(x.numel() // x.shape[1])))
        mean = all_reduce(values.sum(axes)) / count
        centered = values - mean.view(shape)
        var = all_reduce(centered.square().sum(axes)) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            unbiased = var * (count / (count - 1).clamp(min=1))
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)
        scale = (var + self.eps).rsqrt() * self.weight
        return (centered * scale.view(shape) + self.bias.view(shape)).to(x.dtype)


# Those that take their statistics over processes in training mode.
SYNCHRONIZED = (nn.SyncBatchNorm, SyncBatchNorm3d)


def synchronize_batch_norms(model: nn.Module) -> None:
    """Have all batch norms of a network take the statistics of all processes."""
    for parent in list(model.modules()):
        for name, part in parent.named_children():
            if type(part) is BatchNorm3d:
                setattr(parent, name, _synchronized(part))


def _synchronized(norm: BatchNorm3d) -> SyncBatchNorm3d:
    with torch.device("meta"):
        made = SyncBatchNorm3d(norm.num_features, eps=norm.eps, momentum=norm.momentum)
    made._parameters, made._buffers = norm._parameters, norm._buffers
    made.training = norm.training
    return made
