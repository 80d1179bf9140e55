"""What the ledger writes of a page is what it reads; damaged bytes are no page, and no error."""

from __future__ import annotations

import zlib
from dataclasses import replace

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ocr_api.ledger import Kept, key_of
from ocr_api.ledger.codec import decode, encode
from ocr_api.result import Box, Line, Reading, Token, Usage

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
COUNTS = st.integers(0, 2**53)
BOXES = st.builds(Box, FLOATS, FLOATS, FLOATS, FLOATS)
READINGS = st.builds(
    Reading,
    text=TEXTS,
    lines=st.lists(st.builds(Line, TEXTS, BOXES, FLOATS), max_size=5).map(tuple),
    usage=st.builds(Usage, COUNTS, COUNTS),
    finish_reason=st.sampled_from(["stop", "length", "repetition", "implausible"]),
    tokens=st.lists(st.builds(Token, TEXTS, FLOATS), max_size=8).map(tuple),
    turned=st.sampled_from([0, 90, 180, 270]),
)
PAGES = st.builds(
    Kept,
    reading=READINGS,
    width=COUNTS,
    height=COUNTS,
    dpi=COUNTS,
    blank=st.booleans(),
    pictures=st.lists(BOXES, max_size=4).map(tuple),
    scale=FLOATS,
    tried=st.lists(TEXTS, max_size=3).map(tuple),
)
PLAIN = Kept(Reading("a\0\ue000b\U0010ffff\u202e"), 1000, 1400, 150, False, ())
FULL = Kept(
    Reading("x", (Line("y", Box(0, 0.1, 1, 1), 0.5),), Usage(1, 2), "length", (Token("x", 1),), 90),
    1, 2, 3, True, (Box(0, 0, 0.5, 1),), 0.75, ("again", "smaller"),
)  # fmt: skip


@given(PAGES)
@example(PLAIN)
@example(FULL)
def test_a_page_comes_back_as_it_was(kept: Kept) -> None:
    assert decode(encode(kept)) == kept


@given(PAGES, st.data())
@example(FULL, None)
def test_damaged_bytes_are_no_page(kept: Kept, data: st.DataObject | None) -> None:
    """What was cut off is found; of what was changed zlib's checksum finds nearly all.

    Adler-32 (RFC 1950) is weak for short texts, so that one change in many thousands passes.
    """
    whole = encode(kept)
    place = data.draw(st.integers(0, len(whole) - 1)) if data else len(whole) // 2
    assert decode(whole[:place]) is None
    bit = 1 << (data.draw(st.integers(0, 7)) if data else 3)
    changed = decode(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
    assert changed is None or isinstance(changed, Kept)  # never an exception


@given(st.binary(max_size=200))
def test_other_bytes_are_no_page(data: bytes) -> None:
    assert decode(data) is None
    assert decode(b"\x01" + data) is None


@pytest.mark.parametrize(
    "said",
    [
        None, 1, "page", [], {}, [1, 2, 3, 4, 5, 6], [[]] * 6, [[1, 2, 3, True, 1]] + [[]] * 5,
        [[1, 2, 3, True, 1, []], [[1, 2, 3]], ["", "stop", 0, 0, 0], [], [], []],
        [[1, 2, 3, True, 1, []], [], ["", "stop", 0, 0, 0], [["a"]], [], []],
        [[1, 2, 3, True, 1, []], [], ["", "stop", 0, 0, 0], [], [], [], []],
    ],
)  # fmt: skip
def test_json_of_another_shape_is_no_page(said: object) -> None:
    assert decode(b"\x01" + zlib.compress(orjson.dumps(said))) is None


def test_another_version_is_no_page() -> None:
    """An older program beside a newer one reads such pages again."""
    assert encode(FULL)[:1] == b"\x01"
    assert decode(b"\x02" + encode(FULL)[1:]) is None


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb", "\udc80\ud800"])
def test_half_a_surrogate_pair_is_refused(text: str) -> None:
    """It is no Unicode text, and no client could be sent it; such a page is not kept."""
    for reading in (Reading(text), Reading(tokens=(Token(text, 1.0),))):
        with pytest.raises(TypeError):
            encode(replace(PLAIN, reading=reading))


def test_a_page_is_compressed() -> None:
    assert len(encode(replace(PLAIN, reading=Reading("Lorem ipsum dolor. " * 200)))) < 200


def test_a_key_is_the_facts_and_their_values() -> None:
    facts = {"card": "c", "sampling": {"temperature": 0.0, "top_p": None}, "prompt": "\ud800 é"}
    turned = dict(reversed(facts.items()))
    key = key_of("org", "0" * 64, 3, facts)
    assert key == key_of("org", "0" * 64, 3, turned)
    assert key == "44ebbb1ff86f6e87345e4f8036117c88327fdd4d8350acbba2f7f12fe87b3699"
    others = {
        key_of("org2", "0" * 64, 3, facts),
        key_of("org", "1" * 64, 3, facts),
        key_of("org", "0" * 64, 4, facts),
        key_of("org", "0" * 64, 3, facts | {"prompt": "\ud801 é"}),
        key_of("org", "0" * 64, 3, facts | {"revision": None}),
        key_of("org", "0" * 64, 3, {}),
    }
    assert len(others - {key}) == 6
    for wrong in (b"bytes", {1}, float("nan")):
        with pytest.raises((TypeError, ValueError)):
            key_of("org", "0" * 64, 3, {"fact": wrong})


@given(TEXTS, TEXTS, TEXTS, TEXTS)
def test_two_facts_cannot_be_taken_for_each_other(
    name: str, value: str, other: str, more: str
) -> None:
    first = key_of(name, value, 0, {other: more})
    assert (first == key_of(other, more, 0, {name: value})) == ((name, value) == (other, more))
