"""Rows of text and what is usual on a page.

Why these measures: an engine's boxes are loose (they are grown by a share of the text's height),
so nothing is compared in pixels. Heights are compared with the page's typical line, distances
with the typical distance of two lines, widths with the width of a character.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from ocr_api.parsers.layout.order import Piece
from ocr_api.result import Box, Line

TAB = 3.0
"""Gap inside a row, in characters, that makes it a row of cells and not of words."""
HEIGHTS = 1.5
"""Two rows that differ by more are not of one paragraph; boxes of one size differ by a quarter."""
CAPITALS = 1.2
"""How much wider a text in capitals is."""
STEPS = 6
"""Distances between rows that tell what is usual in a column."""


@dataclass(frozen=True, slots=True)
class Row:
    """Lines on one baseline, read from left to right with a space between them.

    Why a space and not a bar: an engine also cuts a justified line at a wide space, and a bar
    there would stand in the middle of a sentence. A form's label and value read well as one line.
    """

    text: str
    box: Box
    height: float
    """Of the typical line in the row, as a fraction of the page."""
    cells: bool
    """Holds a gap that no sentence has."""
    lines: tuple[Line, ...]
    level: int = 0
    """As a title; 0 for anything else."""

    @property
    def middle(self) -> float:
        """Return the height of the row's centre."""
        return (self.box.top + self.box.bottom) / 2


@dataclass(frozen=True, slots=True)
class Measures:
    """What is usual on this page."""

    height: float
    """Of a line, as a fraction of the page's height."""
    pitch: float
    """From one line to the next, in heights of a line."""
    character: float
    """Width of a character, as a fraction of the page's width."""
    seen: frozenset[str] = frozenset()
    """Words of the page."""


def around(boxes: Sequence[Box]) -> Box:
    """Return the smallest box that holds all boxes."""
    return Box(
        min(box.left for box in boxes),
        min(box.top for box in boxes),
        max(box.right for box in boxes),
        max(box.bottom for box in boxes),
    )


def row_of(pieces: Sequence[Piece], character: float) -> Row:
    """Return the row of these lines, which stand from left to right."""
    lines = tuple(piece.line for piece in pieces if piece.line is not None)
    gaps = [after.box.left - before.box.right for before, after in pairwise(pieces)]
    return Row(
        text=" ".join(line.text for line in lines),
        box=around([piece.box for piece in pieces]),
        height=median(line.box.bottom - line.box.top for line in lines),
        cells=any(gap > TAB * character for gap in gaps),
        lines=lines,
    )


def usual_pitch(columns: Sequence[Sequence[Row]], height: float) -> float | None:
    """Return the distance of neighbouring rows in heights of a line; None if there are too few.

    Between the smaller ones and the median: the gaps between paragraphs are among them.
    """
    steps = [
        (row.middle - last.middle) / height
        for rows in columns
        for last, row in pairwise(rows)
        if height and row.middle - last.middle < 3 * height
    ]
    return sorted(steps)[len(steps) * 2 // 5] if len(steps) >= STEPS else None


def size(row: Row, usual: Measures) -> float:
    """Return the size of a row's print over the usual.

    Letters tell it by their height and by their width. Engines grow the boxes of small print
    more, which hides half of the difference in height; a short word's width says little.
    """
    if not usual.height or not usual.character:
        return 1.0
    wide = (row.box.right - row.box.left) / len(row.text) / usual.character
    if row.text.isupper():
        wide /= CAPITALS
    return math.sqrt(wide * row.height / usual.height)


def distance(last: Row, row: Row, usual: Measures) -> float:
    """Return the distance of two rows over the one to expect at their size."""
    size = (last.height + row.height) / 2
    if usual.height / HEIGHTS < size < usual.height * HEIGHTS:
        size = usual.height
    return (row.middle - last.middle) / (usual.pitch * size) if size else 0.0
