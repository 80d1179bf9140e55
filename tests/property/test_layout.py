"""The layout parser takes whatever lines an engine gives, and loses no word of them."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from ocr_api.parsers.layout import Layout
from ocr_api.result import Box, Line, Reading, mark, plain

fractions = st.floats(0, 1)
boxes = st.builds(Box.of, fractions, fractions, fractions, fractions)
# Lines of a grid look more like a page than boxes thrown at random: they meet and line up.
cells = st.builds(
    lambda column, row, width: Box.of(
        column / 8, row / 40, min(1.0, (column + width) / 8 - 0.01), (row + 0.8) / 40
    ),
    st.integers(0, 7),
    st.integers(0, 39),
    st.integers(1, 8),
)
words = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
likely = st.sampled_from(
    ["- a", "• b", "1. Title", "2) x", "# c", "WORDS AND MORE", "a long line of some prose,", "x-"]
)
lines = st.builds(Line, words | likely, boxes | cells, fractions)
readings = st.lists(lines, max_size=60).map(lambda found: Reading(lines=tuple(found)))
pictures = st.lists(boxes | cells, max_size=5).map(tuple)


def letters(text: str) -> str:
    """Return only letters and figures: breaks, markers and hyphens come and go."""
    return re.sub(r"[\W_]", "", plain(text))


@given(readings, pictures)
def test_it_never_raises_and_boxes_stay_on_the_page(
    reading: Reading, regions: tuple[Box, ...]
) -> None:
    page = Layout().parse(reading, regions)
    for block in page.blocks:
        box = block.box
        assert 0 <= box.left <= box.right <= 1
        assert 0 <= box.top <= box.bottom <= 1
        assert block.confidence is None or 0 <= block.confidence <= 1
    assert all(0 <= value <= 1 for value in page.confidences)
    assert len(page.confidences) == sum(bool(plain(line.text).split()) for line in reading.lines)


@given(readings, pictures)
def test_no_word_is_lost(reading: Reading, regions: tuple[Box, ...]) -> None:
    page = Layout().parse(reading, regions)
    found = letters(page.markdown)
    assert all(letters(line.text) in found for line in reading.lines)
    marks = "".join(str(number) for number in range(len(regions)))
    everything = "".join(letters(line.text) for line in reading.lines) + marks
    assert sorted(found) == sorted(everything)


@given(readings, pictures)
def test_every_picture_has_its_mark_and_its_block_once(
    reading: Reading, regions: tuple[Box, ...]
) -> None:
    page = Layout().parse(reading, regions)
    paragraphs = page.markdown.split("\n\n")
    assert all(paragraphs.count(mark(number)) == 1 for number in range(len(regions)))
    images = sorted(block.region for block in page.blocks if block.region is not None)
    assert images == list(range(len(regions)))
