"""What ran out is told from what is broken."""

from __future__ import annotations

import errno

import av.error
import numpy as np
import pytest
import torch

from fasti3d.utils.resources import is_resource_error
from fasti3d.video import VideoError
from fasti3d.weights import WeightsError


def raised(act) -> BaseException:
    with pytest.raises(Exception) as caught:
        act()
    return caught.value


EXHAUSTED = {
    "memory": MemoryError(),
    "numpy": raised(lambda: np.empty(1 << 50)),
    "torch": raised(lambda: torch.empty(1 << 50)),
    "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "driver": RuntimeError("CUDA error: out of memory"),
    "cublas": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    "threads": RuntimeError("can't start new thread"),
    "shared memory": RuntimeError("unable to open shared memory object </torch_1>: Too many open files (24)"),
    **{
        errno.errorcode[code]: OSError(code, "")
        for code in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT)
    },
    **{
        f"PyAV {errno.errorcode[code]}": raised(lambda code=code: av.error.err_check(-code))
        for code in (errno.ENOMEM, errno.EMFILE, errno.ENOSPC)
    },
}


@pytest.mark.parametrize("error", EXHAUSTED.values(), ids=EXHAUSTED)
def test_what_ran_out(error):
    assert is_resource_error(error)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("cut off"),
        OSError(errno.ENOENT, "No such file"),
        RuntimeError("PytorchStreamReader failed reading zip archive"),
        raised(lambda: torch.empty(1 << 62)),  # sizes that no machine has: an argument's fault
        raised(lambda: av.error.err_check(-errno.ENOENT)),
        VideoError("No space left on device.mp4", "is out of memory.mp4"),
        WeightsError("out of memory.pt: damaged"),
    ],
    ids=repr,
)
def test_what_is_broken(error):
    assert not is_resource_error(error)


def test_the_reason_behind_an_error_counts():
    def cause():
        raise WeightsError("damaged") from MemoryError()

    def context():
        try:
            raise OSError(errno.EMFILE, "")
        except OSError:
            raise ValueError("damaged") from None

    def nested():
        try:
            context()
        except ValueError as error:
            raise KeyError from error

    for act in (cause, context, nested):
        assert is_resource_error(raised(act))
    circle = ValueError()
    circle.__cause__ = TypeError()
    circle.__cause__.__context__ = circle
    assert not is_resource_error(circle)
