"""File names: kept clean, written safely into a header."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from files_api.kit.filenames import DEFAULT, MAX_CHARACTERS, attachment, clean


@given(st.text(max_size=400))
def test_a_clean_name_stays_as_it_is_and_is_no_path(name: str) -> None:
    kept = clean(name)
    assert clean(kept) == kept
    assert 0 < len(kept) <= MAX_CHARACTERS
    assert not set(kept) & set("/\\\0\r\n\u202e")
    assert kept.strip(".")
    kept.encode()


@given(st.text(max_size=300))
def test_a_header_is_one_line_of_ascii(name: str) -> None:
    header = attachment(clean(name))
    assert header.isascii()
    assert header.isprintable()
    assert header.split('"')[0] == "attachment; filename="
    assert header.count('"') == 2


def test_plain_names_need_no_encoding() -> None:
    assert attachment("a b-1.pdf") == 'attachment; filename="a b-1.pdf"'


def test_what_is_no_name() -> None:
    assert [clean(name) for name in ("", " ", "/", "..", "\0", "a/")] == [DEFAULT] * 6


def test_names_stay_composed_and_trimmed_whatever_goes() -> None:
    """A control mark between a letter and its accent, a blank at the place where it is cut."""
    assert clean("u\u202e\u0308.pdf") == "ü.pdf"
    assert clean("a" * 254 + " b") == "a" * 254
    assert clean(clean("\u0958" * 200)) == clean("\u0958" * 200)
