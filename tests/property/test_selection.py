"""The grammar of ``pages``, for any input."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from files_api.kit.errors import PagesOutOfRange, ValidationFailed
from ocr_api.selection import MAX_ITEMS, PageSelection

spans = st.lists(
    st.tuples(st.integers(0, 300), st.integers(0, 40)).map(lambda pair: (pair[0], sum(pair))),
    min_size=1,
    max_size=24,
)
blanks = st.text(" \t", max_size=2)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(spans=spans, blank=blanks, count=st.integers(1, 400))
def test_a_written_selection_chooses_what_it_says(
    spans: list[tuple[int, int]], blank: str, count: int
) -> None:
    written = ",".join(
        f"{blank}{first}{blank}" if first == last else f"{blank}{first}{blank}-{blank}{last}"
        for first, last in spans
    )
    expected = {index for first, last in spans for index in range(first, last + 1)}
    try:
        chosen = PageSelection.parse(written).choose(count)
    except PagesOutOfRange:
        assert min(expected) >= count
    except ValidationFailed:
        assert sum(last - first + 1 for first, last in spans) > MAX_ITEMS
    else:
        assert chosen == sorted(index for index in expected if index < count)


@given(indices=st.lists(st.integers(0, 10**17), min_size=1, max_size=50))
def test_every_form_of_the_same_selection_is_the_same(indices: list[int]) -> None:
    as_list = PageSelection.parse(indices)
    assert PageSelection.parse(",".join(map(str, indices))) == as_list
    assert PageSelection.parse([str(index) for index in indices]) == as_list
    assert as_list.choose(max(indices) + 1) == sorted(set(indices))


@given(value=json_values, count=st.integers(0, 2000))
def test_anything_else_is_refused_and_nothing_breaks(value: Any, count: int) -> None:
    try:
        chosen = PageSelection.parse(value).choose(count)
    except (ValidationFailed, PagesOutOfRange):
        return
    assert chosen == sorted(set(chosen))
    assert 0 < len(chosen) <= MAX_ITEMS
    assert 0 <= chosen[0] <= chosen[-1] < count


@given(written=st.text("0123456789-, \t", max_size=60))
def test_a_span_never_runs_backwards(written: str) -> None:
    try:
        found = PageSelection.parse(written).spans
    except ValidationFailed:
        return
    assert all(0 <= first <= last for first, last in found)
