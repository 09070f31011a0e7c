"""fingerprint: any change of any byte must change the number, however the change was made."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fasti3d.ops.fingerprint import fingerprint, fingerprint_reference, traces
from fasti3d.runtime import extension

EDITS: dict[str, Callable[[Tensor], object]] = {
    "negate all": lambda t: t.neg_(),
    "negate the first half": lambda t: t[: len(t) // 2].neg_(),
    "negate two a vector apart": lambda t: t[:17:16].neg_(),
    "double": lambda t: t.mul_(2),
    "halve two a vector apart": lambda t: t[:33:32].mul_(0.5),
    "double one, halve another": lambda t: t[:17:16].mul_(torch.tensor([2.0, 0.5])),
    "zero": lambda t: t.zero_(),
    "swap neighbours": lambda t: t[:2].copy_(t[:2].flip(0)),
    "swap halves": lambda t: t.copy_(t.roll(len(t) // 2)),
    "swap vectors": lambda t: t[:32].copy_(t[:32].roll(16)),
    "reverse": lambda t: t.copy_(t.flip(0)),
    "smallest step": lambda t: t[7:8].copy_(torch.nextafter(t[7:8], torch.tensor([9.0]))),
    "zero to minus zero": lambda t: t[-1:].neg_(),
    "last value": lambda t: t[-2:-1].add_(1),
}


@pytest.fixture(params=["operator", "reference"])
def hash_of(request: pytest.FixtureRequest) -> Callable[[list[Tensor]], int]:
    """The fingerprint as it runs here, and its reference."""
    return fingerprint if request.param == "operator" else fingerprint_reference


def values(count: int, seed: int = 0) -> Tensor:
    t = torch.randn(count, generator=torch.Generator().manual_seed(seed))
    t[-1] = 0.0
    return t


@pytest.mark.parametrize("count", [64, 192, 1000, 40_000])
@pytest.mark.parametrize("edit", EDITS)
def test_every_edit_shows(hash_of: Callable[[list[Tensor]], int], edit: str, count: int) -> None:
    tensors = [values(50, 1), values(count), values(50, 2)]
    before = hash_of(tensors)
    EDITS[edit](tensors[1])
    assert hash_of(tensors) != before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_bit_shows(hash_of: Callable[[list[Tensor]], int], dtype: torch.dtype) -> None:
    t = values(67).to(dtype)
    raw = t.view(torch.uint8)
    seen = {hash_of([t])}
    for place in range(len(raw)):
        for bit in range(8):
            raw[place] ^= 1 << bit
            seen.add(hash_of([t]))
            raw[place] ^= 1 << bit
    assert len(seen) == 1 + 8 * len(raw)


def test_no_two_edits_of_the_same_bit_cancel(hash_of: Callable[[list[Tensor]], int]) -> None:
    """Pairs of flipped bits: what a hash that mixes only upwards within a word cannot tell from none."""
    t = values(160)
    words = t.view(torch.int32)
    pick = random.Random(0)
    before = hash_of([t])
    for bit in range(32):
        flip = torch.tensor(1 << bit if bit < 31 else -(1 << 31), dtype=torch.int32)
        for _ in range(20):
            first, second = pick.sample(range(len(words)), 2)
            words[[first, second]] ^= flip
            assert hash_of([t]) != before, (bit, first, second)
            words[[first, second]] ^= flip
    assert hash_of([t]) == before


def test_sparse_edits_do_not_collide(hash_of: Callable[[list[Tensor]], int]) -> None:
    """Exponents and signs only: few bits, at the top of each word, where a weak hash forgets."""
    t = values(256)
    pick = random.Random(1)
    seen = {hash_of([t])}
    for _ in range(3000):
        changed = t.clone()
        # A few multiples of 16 apart, so that vectorised hashes see them in the same lane.
        lane = pick.randrange(16)
        for step in pick.sample(range(16), 3):
            changed[lane + 16 * step] *= pick.choice([-1.0, 2.0, 0.5, -2.0, 4.0])
        if torch.equal(changed, t):
            continue
        assert hash_of([changed]) != hash_of([t])
        seen.add(hash_of([changed]))
    assert len(seen) > 2900  # the same edit may be drawn twice


def test_depends_on_contents_only(hash_of: Callable[[list[Tensor]], int]) -> None:
    tensors = [values(70_000), values(3, 1).bfloat16(), values(64, 2).view(4, 4, 4)]
    copies = [t.clone() for t in tensors]
    assert hash_of(tensors) == hash_of(copies) == hash_of(tensors)
    assert hash_of([torch.nn.Parameter(t) for t in tensors]) == hash_of(copies)


def test_order_and_place_matter(hash_of: Callable[[list[Tensor]], int]) -> None:
    a, b = values(64), values(64, 1)
    assert len({hash_of(case) for case in ([a], [b], [a, b], [b, a], [a, a], [a, b, b], [])}) == 7


def test_values_shared_out_differently_differ() -> None:
    t = values(64)
    assert fingerprint([t[:32], t[32:]]) != fingerprint([t[:16], t[16:]])


def test_odd_sizes_and_empty_tensors(hash_of: Callable[[list[Tensor]], int]) -> None:
    assert isinstance(hash_of([torch.empty(0), torch.empty(0)]), int)
    for count in (1, 2, 3, 31, 33):
        t = values(count).bfloat16()
        before = hash_of([t])
        t[0] += 1
        assert hash_of([t]) != before


def test_threads_do_not_change_it(set_threads: Callable[[int], None]) -> None:
    t = values(1_000_000)
    numbers = set()
    for threads in (1, 2, 3):
        set_threads(threads)
        numbers.add(fingerprint([t, t[:100]]))
    assert len(numbers) == 1


def test_values_that_need_gradients(hash_of: Callable[[list[Tensor]], int]) -> None:
    """Weights do, also where gradients are not switched off."""
    weight = torch.nn.Parameter(values(64))
    before = hash_of([weight])
    weight.data.add_(1)
    assert hash_of([weight]) != before


def test_works_in_inference_mode(hash_of: Callable[[list[Tensor]], int]) -> None:
    with torch.inference_mode():
        t = values(64)
        assert hash_of([t]) == hash_of([t.clone()])


# What stands for contents on a GPU.


@pytest.fixture(params=["compiled", "in Python"])
def trace(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[list[Tensor]], int]:
    """A hash of addresses and versions, with the extension and without."""
    if request.param == "in Python":
        monkeypatch.setattr(extension, "CORE", None)
    elif extension.CORE is None:
        pytest.skip("the extension is not built")
    return traces


def test_traces_tell_what_was_written_or_exchanged(trace: Callable[[list[Tensor]], int]) -> None:
    tensors = [torch.nn.Parameter(torch.zeros(4)), torch.zeros(3), torch.zeros(0)]
    found = [trace(tensors)]
    assert trace(list(tensors)) == found[0]
    changes: tuple[Callable[[], object], ...] = (
        lambda: tensors[1].add_(1),
        lambda: tensors[2].zero_(),
        lambda: setattr(tensors[0], "data", torch.ones(4)),
        tensors.reverse,
        lambda: tensors.append(tensors[-1]),
        lambda: tensors.pop(0),
    )
    for change in changes:
        change()
        found.append(trace(tensors))
    assert len(set(found)) == len(found)


@pytest.mark.skipif(extension.CORE is None, reason="the extension is not built")
def test_traces_raise_what_a_tensor_raises() -> None:
    with torch.inference_mode():
        x = torch.zeros(3)
    with pytest.raises(RuntimeError, match="version counter"):
        traces([torch.zeros(3), x])
    with pytest.raises(TypeError):
        traces([torch.zeros(3), 3])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="version must be an attribute of a class"):
        extension.CORE.traces([x], Tensor.data_ptr, 3)
