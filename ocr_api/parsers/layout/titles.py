"""Rows that are titles by their size.

Why so many conditions: a false title cuts a sentence in two and shows in every outline, a
missed one still reads as text. Size alone is no proof: boxes of one size differ by a quarter, a
drop capital makes its line tall, and an abstract or a list of authors is print of another size.
The thresholds are our own choice, checked on forty pages of some twenty-five documents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import median

from ocr_api.parsers.layout import words
from ocr_api.parsers.layout.rows import Measures, Row, distance, size

TITLE = 1.3
"""Size of a title over the page's typical line."""
FIRST_LEVEL = 1.6
"""Size of a title of the first level; boxes of text are never as large by accident."""
MAYBE_TITLE = 1.1
"""Size of a title that must also stand like one; bold letters of body size are as wide."""
TITLE_CHARACTERS = 160
TITLE_ROWS = 3
"""Most lines of a title; more lines of large print are a text in large print."""
GAP = 1.27
"""Distance to the next line that starts a block, over the usual distance."""
LOOSE = 1.6
"""Distance of two lines of one text in large print, over the usual distance of lines."""
NEARER = 0.95
"""Share of the distance to the next line that counts as the same; boxes are not exact."""
ALONE = 0.7
"""Widest title of ordinary size, over the width of its column."""


def with_levels(rows: Sequence[Row], width: float, usual: Measures) -> list[Row]:
    """Return the rows of one column with their levels as titles.

    Args:
        rows: the column from top to bottom.
        width: of the column.
        usual: measures of the page.
    """
    found: list[Row] = []
    for number, (row, body) in enumerate(zip(rows, _bodies(rows, usual), strict=True)):
        last = found[-1] if found else None
        after = rows[number + 1] if number + 1 < len(rows) else None
        level = _level(last, row, body, width, usual)
        if level and size(row, usual) < FIRST_LEVEL:
            spoken = words.enumerates(row.text) or _in_sentence(last, row, after, usual)
            level = 0 if spoken or _with_above(last, row, after, usual) else level
        found.append(replace(row, level=level))
    return found


def _bodies(rows: Sequence[Row], usual: Measures) -> list[float]:
    """Return for each row the size of the print it stands in: 1, or that of a large text."""
    bodies = [1.0] * len(rows)
    start = 0
    for number in range(1, len(rows) + 1):
        if number < len(rows) and _both_large(rows[number - 1], rows[number], usual):
            continue
        if number - start > TITLE_ROWS:
            typical = median(_print(row, usual) for row in rows[start:number])
            bodies[start:number] = [typical] * (number - start)
        start = number
    return bodies


def _both_large(last: Row, row: Row, usual: Measures) -> bool:
    """Say whether two rows are large print of one size that stands together."""
    low, high = sorted((_print(last, usual), _print(row, usual)))
    return low >= MAYBE_TITLE and high < TITLE * low and distance(last, row, usual) < LOOSE


def _print(row: Row, usual: Measures) -> float:
    """Return the size of a row's print; the gaps between cells would look like wide letters."""
    return row.height / usual.height if row.cells else size(row, usual)


def _level(last: Row | None, row: Row, body: float, width: float, usual: Measures) -> int:
    """Return 1 or 2 for a title, 0 for anything else."""
    letters = sum(character.isalpha() for character in row.text)
    odd = letters < max(3, len(row.text) / 3) or row.text.endswith((",", ";"))
    if row.cells or odd or len(row.text) > TITLE_CHARACTERS:
        return 0
    large = size(row, usual)
    if large >= TITLE * body:
        return 1 if large >= FIRST_LEVEL else 2
    narrow = row.box.right - row.box.left <= ALONE * width
    if large < MAYBE_TITLE * body or not narrow or not words.reads_like_title(row.text):
        return 0
    if last is not None and last.level and large / size(last, usual) > 1 / MAYBE_TITLE:
        return last.level
    return 2 if last is None or distance(last, row, usual) > GAP else 0


def _with_above(last: Row | None, row: Row, after: Row | None, usual: Measures) -> bool:
    """Say whether a row that is hardly larger stands nearer to the text above than to the next."""
    if last is None or last.level or after is None or size(row, usual) >= TITLE:
        return False
    return distance(last, row, usual) < NEARER * distance(row, after, usual)


def _in_sentence(last: Row | None, row: Row, after: Row | None, usual: Measures) -> bool:
    """Say whether a row of moderate size belongs to the text above or below it."""
    if row.text.endswith("."):
        return True
    if last is not None and not last.level and distance(last, row, usual) <= GAP:
        clear = _print(row, usual) >= TITLE * _print(last, usual)
        if not clear or not words.ends_sentence(last.text):
            return True
    if after is None or after.cells or not after.text[0].islower():
        return False
    if size(after, usual) >= TITLE:  # the second line of a title
        return False
    return distance(row, after, usual) <= GAP or _both_large(row, after, usual)
