"""Running headers, footers and page numbers come first or last, whatever the columns do.

Why before the columns are found: a header's two ends stand over two columns like lines of them,
and the page number then stands in the midst of the sentence that runs from one to the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from statistics import median

from ocr_api.parsers.layout import order
from ocr_api.parsers.layout.order import Piece

MARGIN = 0.07
"""Share of the page's height, at the top and at the bottom, where text seldom is: two
centimetres of A4, the default margin of LibreOffice (Word leaves 2.5)."""
SET_OFF = 1.5
"""Empty strip between a header and the text, in heights of a line."""
MAX_ROWS = 3
"""Most rows of a header; the strip and these numbers are our own choice."""
MAX_PIECES = 3
"""In one row: left, middle and right."""
LARGE = 1.25
"""Height of what is no running header but a title, over the typical line."""


def regions(pieces: Sequence[Piece], character: float) -> list[list[Piece]]:
    """Return the pieces as regions of one column each, in reading order, headers first.

    Args:
        pieces: lines and pictures of the page, in any order.
        character: width of a character as a fraction of the page's width.
    """
    rows = order.rows(pieces)
    if len(rows) <= 2 * MAX_ROWS:
        return order.regions(pieces, character)
    usual = median(piece.height for piece in pieces)
    first = _set_off(rows, usual, from_top=True)
    last = len(rows) - _set_off(rows[::-1], usual, from_top=False)
    body = [piece for row in rows[first:last] for piece in row]
    return [*rows[:first], *order.regions(body, character), *rows[last:]]


def _set_off(rows: Sequence[list[Piece]], usual: float, *, from_top: bool) -> int:
    """Return how many rows at the start are in the margin, with an empty strip after them."""
    few = list(takewhile(lambda row: _in_margin(row, usual, from_top=from_top), rows))
    for count in range(min(len(few), MAX_ROWS), 0, -1):
        inner = [piece.box for row in rows[count:] for piece in row]
        outer = [piece.box for row in rows[:count] for piece in row]
        upper, lower = (outer, inner) if from_top else (inner, outer)
        strip = min(box.top for box in lower) - max(box.bottom for box in upper)
        if strip > SET_OFF * usual:
            return count
    return 0


def _in_margin(row: Sequence[Piece], usual: float, *, from_top: bool) -> bool:
    if len(row) > MAX_PIECES or any(piece.line is None for piece in row):
        return False
    if max(piece.height for piece in row) > LARGE * usual:
        return False
    edges = [piece.box.bottom if from_top else 1 - piece.box.top for piece in row]
    return max(edges) < MARGIN
