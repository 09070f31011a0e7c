"""Copies to a GPU beside its kernels."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from fasti3d.runtime import upload as module
from fasti3d.runtime.upload import upload

pytestmark = pytest.mark.gpu

CUDA = torch.device("cuda")


def numbers(seed: int) -> Tensor:
    return torch.randint(0, 256, (1 << 22,), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_a_copy_is_the_tensor_itself_in_its_layout() -> None:
    for host in (numbers(0), numbers(1).view(2, 4, 8, 8, -1).permute(0, 4, 1, 2, 3), numbers(2)[1::3]):
        there = upload(host, CUDA)
        assert there.device == torch.device("cuda", torch.cuda.current_device())
        assert torch.equal(there.cpu(), host)
    dense = numbers(1).view(2, 4, 8, 8, -1).permute(0, 4, 1, 2, 3)
    assert upload(dense, CUDA).stride() == dense.stride()
    already = numbers(0).cuda()
    assert upload(already, already.device) is already


def test_a_copy_is_done_while_the_current_stream_is_busy_and_seen_by_it_after() -> None:
    host = numbers(3)
    upload(host, CUDA)  # takes the memory, pinned and not
    torch.cuda.synchronize()
    torch.cuda._sleep(1_000_000_000)  # half a second
    there = upload(host, CUDA)
    module._copying(torch.device("cuda", torch.cuda.current_device())).synchronize()
    assert not torch.cuda.current_stream().query(), "the copy waited for the kernel"
    assert torch.equal((there + 1).cpu(), host + 1)


def test_memory_in_use_is_not_copied_over() -> None:
    """Each copy is let go of while the kernel that reads it has not begun."""
    hosts = [numbers(seed) for seed in range(4)]
    torch.cuda.synchronize()
    torch.cuda._sleep(500_000_000)
    sums = []
    for host in hosts * 3:
        there = upload(host, CUDA)
        sums.append(there.sum(dtype=torch.int64))
        del there
    assert [x.item() for x in sums] == [host.sum(dtype=torch.int64).item() for host in hosts] * 3


def test_threads_and_streams_at_once() -> None:
    def work(seed: int) -> bool:
        host = numbers(seed)
        with torch.cuda.stream(torch.cuda.Stream()):
            return all(torch.equal(upload(host + i, CUDA).cpu(), host + i) for i in range(20))

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(work, range(4)))
