"""Rows of one column become titles, lists and paragraphs.

Why the thresholds are what they are: set by looking at three documents and the demo scan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from ocr_api.parsers.layout import words
from ocr_api.parsers.layout.rows import (
    HEIGHTS,
    Measures,
    Row,
    around,
    distance,
    size,
    usual_pitch,
)
from ocr_api.parsers.layout.titles import ALONE, GAP, with_levels
from ocr_api.result import Box

CELL_GAP = 2.0
"""Distance of two rows of a table, over the usual distance of lines."""
ITEM_GAP = 2.5
"""Distance to the next item of a list, over the usual distance of lines."""
INDENT = 1.2
"""Shift of a line's start, in characters, that means something."""
DEEP = 8.0
"""Deepest indent of a paragraph, in characters."""
SMALL = 0.92
"""Size under which a row is small print, which has no titles of its own size (own choice: real
titles by place measured .93 and more, an imprint .89; forty pages looked at)."""
VERSE = 3
"""Fewest rows that can be a poem or an address."""

HARD_BREAK = "  \n"
"""Markdown for a line end that is kept."""


@dataclass(frozen=True, slots=True)
class Edges:
    """Between what the lines of a column stand."""

    left: float
    """Of the rows up to the next gap: what stands under a wide heading may be narrow."""
    right: float
    """Of the whole column: the lines of an address are all short."""
    width: float
    """Of the whole column."""
    verse: bool = False
    """Most rows up to the next gap are ended on purpose, so all are: an address, a poem."""


@dataclass(slots=True)
class Draft:
    """A block while rows are added to it."""

    kind: str
    rows: list[Row]
    text: str
    level: int = 0
    """Of a title."""
    item_left: float = 0.0
    """Where the list's items start."""

    @property
    def box(self) -> Box:
        """Return the box around all lines."""
        return around([line.box for row in self.rows for line in row.lines])


def drafts(rows: Sequence[Row], usual: Measures) -> list[Draft]:
    """Return the blocks of one column of rows."""
    if not rows:
        return []
    usual = replace(usual, pitch=usual_pitch([rows], usual.height) or usual.pitch)
    right = max(row.box.right for row in rows)
    width = right - min(row.box.left for row in rows)
    found: list[Draft] = []
    for run in _runs(with_levels(rows, width, usual), usual):
        edges = _edges(run, right, width, usual)
        for row in run:
            if not found or not _added(found[-1], row, edges, usual):
                found.append(_started(row))
    for before, block, after in zip([None, *found], found, found[1:], strict=False):
        if _stands_alone(before, block, after, width, usual):
            block.kind, block.level, block.text = "title", 2, block.rows[0].text
    return _with_lists(found, usual)


def _with_lists(blocks: Sequence[Draft], usual: Measures) -> list[Draft]:
    """Return the blocks with indented paragraphs after a colon as one list.

    Detectors often do not see a bullet. What is announced and indented alike is a list anyway.
    """
    found: list[Draft] = []
    announced: Draft | None = None
    for block in blocks:
        if block.kind != "text" or block.rows[0].cells:
            announced = None
        elif announced is not None and _inset(announced, block, usual):
            if found[-1] is announced:
                found.append(Draft("list", list(block.rows), f"- {block.text}"))
            else:
                _extend_list(found[-1], block)
            continue
        elif block.text.endswith(":"):
            announced = block
        else:
            announced = None
        found.append(block)
    return found


def _inset(announced: Draft, block: Draft, usual: Measures) -> bool:
    # All lines stand in, or it is a paragraph whose first line is indented.
    left = min(row.box.left for row in block.rows)
    shift = left - min(row.box.left for row in announced.rows)
    return 2 * usual.character < shift < 2 * DEEP * usual.character


def _extend_list(items: Draft, block: Draft) -> None:
    items.rows += block.rows
    items.text += f"\n- {block.text}"


def _runs(rows: Sequence[Row], usual: Measures) -> list[list[Row]]:
    """Return the rows in groups that space or size separates."""
    found: list[list[Row]] = []
    for row in rows:
        if found and not _apart(found[-1][-1], row, usual):
            found[-1].append(row)
        else:
            found.append([row])
    return found


def _edges(run: Sequence[Row], right: float, width: float, usual: Measures) -> Edges:
    edges = Edges(min(row.box.left for row in run), right, width)
    if len(run) < VERSE:
        return edges
    broken = sum(_broken_early(last, row, edges, usual) for last, row in pairwise(run))
    return replace(edges, verse=2 * broken > len(run) - 1)


def _stands_alone(
    before: Draft | None, block: Draft, after: Draft, width: float, usual: Measures
) -> bool:
    """Say whether a row of ordinary size is a title by its place: short, alone, over prose."""
    row = block.rows[0]
    if block.kind == "title" or len(block.rows) > 1 or after.kind != "text":
        return False
    if len(after.rows) == 1 or row.cells or any(below.cells for below in after.rows):
        return False
    wide = row.box.right - row.box.left > ALONE * width
    if wide or size(row, usual) < SMALL or not words.reads_like_title(row.text):
        return False
    return words.is_section(row.text) or _set_off(before, row, after, width, usual)


def _set_off(before: Draft | None, row: Row, after: Draft, width: float, usual: Measures) -> bool:
    """Say whether the row stands apart on both sides, and mostly from what is above."""
    under = distance(row, after.rows[0], usual)
    over = distance(before.rows[-1], row, usual) if before else 2 * under
    if under <= GAP or over <= GAP:
        return False
    # Names over their affiliations stand like a title, but over no full line.
    full = any(below.box.right - below.box.left > ALONE * width for below in after.rows)
    return over > GAP * under or (full and words.capitalised(row.text))


def _started(row: Row) -> Draft:
    if row.level:
        return Draft("title", [row], row.text, row.level)
    mark = words.marker(row.text)
    if mark is not None and not row.cells:
        return Draft("list", [row], f"{mark.text} {mark.rest}", item_left=row.box.left)
    return Draft("text", [row], row.text)


def _added(block: Draft, row: Row, edges: Edges, usual: Measures) -> bool:
    """Add the row to the block if it belongs there, and say whether it did."""
    last = block.rows[-1]
    if _apart(last, row, usual):
        # Items of a list may stand apart; what follows one item may not.
        return block.kind == "list" and _near(last, row, usual) and _new_item(block, row, usual)
    if block.kind == "title":
        if row.level != block.level:
            return False
        _extend(block, row, words.join(block.text, row.text, usual.seen))
        return True
    if block.kind == "list":
        return _new_item(block, row, usual) or _continued_item(block, row, edges, usual)
    return _continued_text(block, row, edges, usual)


def _continued_text(block: Draft, row: Row, edges: Edges, usual: Measures) -> bool:
    last = block.rows[-1]
    if row.level or _turns(block, row, edges, usual):
        return False
    mark = words.marker(row.text)
    broken = _broken_early(last, row, edges, usual)
    may_start = broken or words.ends_sentence(last.text)
    if mark is not None and not row.cells and (mark.sure or may_start):
        return False
    if last.cells or row.cells:
        _extend(block, row, block.text + HARD_BREAK + row.text)
        return True
    if words.splits_word(last.text) or not (broken or _indented(block, row, usual)):
        _extend(block, row, words.join(block.text, row.text, usual.seen))
        return True
    if words.ends_sentence(last.text) or words.is_section(block.text):
        return False
    _extend(block, row, block.text + HARD_BREAK + row.text)
    return True


def _turns(block: Draft, row: Row, edges: Edges, usual: Measures) -> bool:
    """Say whether prose and cells, or centred and full lines, meet between the rows."""
    last = block.rows[-1]
    if row.cells and not last.cells:
        return len(block.rows) > 1 or words.ends_sentence(last.text)
    if last.cells and not row.cells:
        return row.box.right - row.box.left > ALONE * edges.width
    outward = last.box.left - row.box.left > DEEP * usual.character
    return outward and abs(last.box.right - row.box.right) > INDENT * usual.character


def _new_item(block: Draft, row: Row, usual: Measures) -> bool:
    mark = words.marker(row.text)
    if mark is None or row.cells:
        return False
    inset = row.box.left - block.item_left > 2 * usual.character
    _extend(block, row, f"{block.text}\n{'    ' if inset else ''}{mark.text} {mark.rest}")
    return True


def _continued_item(block: Draft, row: Row, edges: Edges, usual: Measures) -> bool:
    last = block.rows[-1]
    hanging = row.box.left > block.item_left + INDENT * usual.character
    if row.cells or row.level:
        return False
    if not hanging and _broken_early(last, row, edges, usual):
        return False
    _extend(block, row, words.join(block.text, row.text, usual.seen))
    return True


def _extend(block: Draft, row: Row, text: str) -> None:
    block.rows.append(row)
    block.text = text


def _apart(last: Row, row: Row, usual: Measures) -> bool:
    """Say whether space or size separates two rows."""
    low, high = sorted((last.height, row.height))
    if high > HEIGHTS * low:
        return True
    # The rows of a table stand further apart than lines of a text.
    return distance(last, row, usual) > (CELL_GAP if last.cells and row.cells else GAP)


def _near(last: Row, row: Row, usual: Measures) -> bool:
    return distance(last, row, usual) < ITEM_GAP


def _broken_early(last: Row, row: Row, edges: Edges, usual: Measures) -> bool:
    """Say whether the next row's first word would have fitted on the last row.

    Somebody who fills lines would have put it there, so the line was ended on purpose.
    """
    if edges.verse:
        return True
    room = edges.right - last.box.right
    # Lines that end together at the right have their room at the left; an indent is not room.
    room += max(0.0, last.box.left - edges.left - DEEP * usual.character)
    first = row.text.split(maxsplit=1)[0]
    return room > (len(first) + 2.5) * usual.character


def _indented(block: Draft, row: Row, usual: Measures) -> bool:
    """Say whether the row starts a paragraph by its indent (or ends a hanging one)."""
    last, step = block.rows[-1], INDENT * usual.character
    if row.box.left - last.box.left > step:
        return words.ends_sentence(last.text)
    hanging = len(block.rows) > 1 and last.box.left - block.rows[0].box.left > step
    return hanging and last.box.left - row.box.left > step
