"""The grammar of ``pages``, by example."""

from __future__ import annotations

import math
from typing import Any

import pytest

from files_api.kit.errors import PagesOutOfRange, ValidationFailed
from ocr_api.selection import MAX_ITEMS, PageSelection


@pytest.mark.parametrize(
    ("value", "count", "chosen"),
    [
        (0, 3, [0]),
        (2.0, 3, [2]),
        ("0", 3, [0]),
        ("0-2", 5, [0, 1, 2]),
        ("0,2-4", 5, [0, 2, 3, 4]),
        (" 4 , 1 - 2\t", 5, [1, 2, 4]),
        ("3,0,3,0-1", 5, [0, 1, 3]),
        ([2, 0, 2], 3, [0, 2]),
        (["1", 0], 3, [0, 1]),
        ((1,), 3, [1]),
        ("1-900", 3, [1, 2]),
        ([0, 17], 1, [0]),
        (f"0-{MAX_ITEMS - 1}", 2, [0, 1]),
        (",".join(["0"] * MAX_ITEMS), 1, [0]),
    ],
)
def test_selection_chooses(value: Any, count: int, chosen: list[int]) -> None:
    assert PageSelection.parse(value).choose(count) == chosen


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (-1, "negative"),
        ([0, -1], "negative"),
        (10**18, "too large"),
        (1.5, "takes an index"),
        (math.nan, "takes an index"),
        (math.inf, "takes an index"),
        (True, "takes an index"),
        (None, "takes an index"),
        ({}, "takes an index"),
        (b"0", "takes an index"),
        ([[0]], "takes an index"),
        (["0-2"], "takes an index"),
        ([], "names no page"),
        ("", "takes items"),
        ("0,", "takes items"),
        ("-1", "takes items"),
        ("0-", "takes items"),
        ("0--2", "takes items"),
        ("1e3", "takes items"),
        ("0\n", "takes items"),
        ("٣", "takes items"),  # a digit, but not ours
        ("9" * 19, "takes items"),
        ("2-0", "backwards: 2-0"),
        (f"0-{MAX_ITEMS}", "more than 1000"),
        ("0-999999999999999999", "more than 1000"),
        ("0-599,0-599", "more than 1000"),
        (",".join(["0"] * (MAX_ITEMS + 1)), "more than 1000"),
        ("," * 1_000_000, "more than 1000"),
        ([0] * (MAX_ITEMS + 1), "more than 1000"),
    ],
)
def test_selection_is_refused(value: Any, says: str) -> None:
    with pytest.raises(ValidationFailed, match=says) as caught:
        PageSelection.parse(value)
    assert caught.value.param == "pages"
    assert caught.value.details()[0]["loc"] == ["body", "pages"]


@pytest.mark.parametrize(("value", "count"), [(3, 3), ("5-9", 5), ([7, 8], 1), (0, 0)])
def test_nothing_left_is_an_error_that_says_how_many_pages_there_are(
    value: Any, count: int
) -> None:
    with pytest.raises(PagesOutOfRange, match=f"the document has {count},") as caught:
        PageSelection.parse(value).choose(count)
    assert caught.value.param == "pages"
