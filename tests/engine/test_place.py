"""Maps in one block: none overlaps another that is kept at the same time, and little is left free."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from fasti3d.engine.place import ALIGNMENT, Interval, floor_bytes, place

PAGE = ALIGNMENT


@st.composite
def intervals(draw: st.DrawFn) -> list[Interval]:
    found = []
    for _ in range(draw(st.integers(0, 12))):
        begin = draw(st.integers(0, 8))
        found.append(Interval(draw(st.integers(0, 5 * PAGE)), begin, begin + draw(st.integers(0, 4))))
    return found


@settings(max_examples=200, deadline=None)
@given(intervals())
def test_what_is_kept_at_one_time_lies_apart(given: list[Interval]) -> None:
    offsets, total = place(given)
    assert floor_bytes(given) <= total <= sum(-(-one.nbytes // PAGE) * PAGE for one in given)
    for i, one in enumerate(given):
        assert offsets[i] % PAGE == 0
        assert offsets[i] + one.nbytes <= total
        for j, other in enumerate(given[:i]):
            if one.begin <= other.end and other.begin <= one.end and one.nbytes and other.nbytes:
                first, second = sorted((i, j), key=lambda k: offsets[k])
                assert offsets[first] + given[first].nbytes <= offsets[second]


def test_a_chain_and_what_its_steps_need_meanwhile_leave_no_gap() -> None:
    sizes = [7, 3, 9, 2, 2, 8, 1]
    maps = [Interval(size * PAGE, i, i + 1) for i, size in enumerate(sizes)]
    scratch = [Interval((i % 3) * PAGE, i, i) for i in range(len(sizes))]
    assert place([*maps, *scratch])[1] == floor_bytes([*maps, *scratch])


def test_a_residual_lies_beside_the_two_maps_of_its_branch() -> None:
    given = [Interval(4 * PAGE, 0, 3), Interval(PAGE, 1, 2), Interval(PAGE, 2, 3), Interval(4 * PAGE, 3, 4)]
    assert place(given)[1] == floor_bytes(given) == 9 * PAGE
