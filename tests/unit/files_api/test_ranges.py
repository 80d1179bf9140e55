"""Ranges and entity tags of downloads, as RFC 9110 has them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from files_api.kit.errors import RangeUnsatisfiable
from files_api.kit.ranges import entity_tag, not_modified, wanted

TAG = entity_tag("ab" * 32)


def place(header: str, size: int = 10) -> tuple[int, int] | None:
    return wanted([header], [], TAG, size)


@pytest.mark.parametrize(
    ("header", "bytes_wanted"),
    [
        ("bytes=0-0", (0, 1)),
        ("bytes=0-9", (0, 10)),
        ("bytes=2-5", (2, 6)),
        ("bytes=9-", (9, 10)),
        ("bytes=0-", (0, 10)),
        ("bytes=5-100", (5, 10)),
        ("bytes=-1", (9, 10)),
        ("bytes=-10", (0, 10)),
        ("bytes=-11", (0, 10)),
        ("BYTES=1-2", (1, 3)),
        ("bytes= 1-2 ,", (1, 3)),
        ("bytes=0001-0002", (1, 3)),
        ("bytes=1-" + "9" * 5000, (1, 10)),
        ("bytes=-" + "9" * 5000, (0, 10)),
    ],
)
def test_one_range(header: str, bytes_wanted: tuple[int, int]) -> None:
    assert place(header) == bytes_wanted


@pytest.mark.parametrize(
    "header",
    ["", "bytes", "bytes=", "bytes=-", "bytes=a-b", "bytes=5-2", "bytes=1", "bytes=1-2-3",
     "bytes=--1", "bytes=+1-2", "bytes=1.0-2", "bytes=٣-٤", "bytes =1-2", "lines=1-2",
     "bytes=0-1,3-4", "bytes=0-1,x", "bytes=,", "0-1"],
)  # fmt: skip
def test_what_is_malformed_or_several_means_the_whole(header: str) -> None:
    assert place(header) is None


@pytest.mark.parametrize(
    "header", ["bytes=10-", "bytes=10-20", "bytes=-0", "bytes=" + "9" * 5000 + "-"]
)
def test_a_range_beyond_the_end(header: str) -> None:
    with pytest.raises(RangeUnsatisfiable) as caught:
        place(header)
    assert caught.value.headers() == {"Content-Range": "bytes */10"}


def test_an_empty_content() -> None:
    assert place("bytes=-5", 0) is None
    for header in ("bytes=0-", "bytes=0-0", "bytes=-0"):
        with pytest.raises(RangeUnsatisfiable):
            place(header, 0)


def test_no_header_and_two_headers_mean_the_whole() -> None:
    assert wanted([], [], TAG, 10) is None
    assert wanted(["bytes=0-1", "bytes=0-1"], [], TAG, 10) is None


@pytest.mark.parametrize(
    ("condition", "fits"),
    [(TAG, True), (f" {TAG} ", True), (f"W/{TAG}", False), ('"other"', False),
     ("Sat, 21 Nov 2026 00:00:00 GMT", False), ("", False), (TAG.strip('"'), False)],
)  # fmt: skip
def test_if_range_takes_our_strong_tag_alone(condition: str, fits: bool) -> None:
    assert wanted(["bytes=0-1"], [condition], TAG, 10) == ((0, 2) if fits else None)


@pytest.mark.parametrize(
    ("conditions", "same"),
    [([], False), (["*"], True), ([TAG], True), ([f"W/{TAG}"], True), (['"a"'], False),
     ([f'"a", "b,c" , {TAG}'], True), (['"a"', TAG], True), ([TAG.strip('"')], False),
     ([f'"{TAG}"'], False), ([""], False)],
)  # fmt: skip
def test_if_none_match(conditions: list[str], same: bool) -> None:
    assert not_modified(conditions, TAG) == same


@given(st.text(alphabet="bytes=0123456789-, x", max_size=30), st.integers(0, 50))
def test_any_header_gives_bytes_that_exist(header: str, size: int) -> None:
    try:
        found = place("bytes=" + header, size)
    except RangeUnsatisfiable:
        return
    if found:
        assert 0 <= found[0] < found[1] <= size
