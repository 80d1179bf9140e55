"""Reading order: which pieces of a page belong to one column, and which to one row.

Why: a line-based engine gives boxes from top to bottom, so the columns of a page come
interleaved. A recursive XY-cut (G. Nagy and S. Seth, 1984) looks for a gutter first. A heading
or a picture that spans the columns would hide the gutter, so pieces that cross it are allowed:
they cut the page into bands, and each band is read column by column. Cells of a table stand
apart like columns, but are read by rows: a gutter counts only between two stacks of prose, or
between stacks whose lines do not share baselines.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median
from unicodedata import east_asian_width

from ocr_api.result import Box, Line

MAX_DEPTH = 24
"""Cuts within cuts: real pages need under ten; a bound keeps the time linear in the lines."""
PROSE = 16
"""Characters of the median line of a prose column. Cells of tables are mostly shorter, lines of
a newspaper column longer (own choice, checked on three documents)."""
MIN_STACK = 3
"""Lines that make a column where no wider gutter is known already."""
MAX_CROSSING = 0.3
"""Largest share of pieces that may cross a gutter."""
GUTTER = 0.6
"""Narrowest gutter, in character widths; engines' boxes reach about a character into it."""
OUTLIERS = 0.15
"""Share of the lines that may reach further into a gutter than the others."""
OVERHANG = 0.1
"""Share of a line that may reach over a gutter."""
MERGED = 3
"""Most lines in a row that an engine reads through a gutter; more are a paragraph across."""
TIGHT = 1.7
"""Distance to the next line of a column, in heights of a line."""
CANDIDATES = 8
"""Places for a gutter looked at in one region, emptiest first."""
APART = 2.0
"""Distance of two such places, in character widths."""


@dataclass(frozen=True, slots=True)
class Piece:
    """What has a place on the page: a line of text, or a picture by its number.

    ``box`` is where it counts; that of a line read through a gutter is cut to its column.
    """

    box: Box
    line: Line | None = None
    region: int | None = None
    length: int = 0
    """Of the text, in Latin characters."""

    @property
    def middle(self) -> float:
        """Return the height to sort by: a line's centre, a picture's top edge."""
        if self.line is None:
            return self.box.top
        return (self.box.top + self.box.bottom) / 2

    @property
    def height(self) -> float:
        """Return the height as a fraction of the page."""
        return self.box.bottom - self.box.top


@dataclass(frozen=True, slots=True)
class _Part:
    """Pieces to be read together; a column is the left or right side of a gutter."""

    pieces: list[Piece]
    column: bool = False


@dataclass(frozen=True, slots=True)
class _Gutter:
    """A cut from top to bottom, and what stands on both sides of it and across it."""

    left: list[Piece]
    right: list[Piece]
    crossing: list[Piece]


def piece_of(line: Line) -> Piece:
    """Return the piece of one line of text."""
    return Piece(line.box, line, length=_length(line.text))


def regions(pieces: Sequence[Piece], character: float) -> list[list[Piece]]:
    """Return the pieces as regions of one column each, in reading order.

    Args:
        pieces: lines and pictures of the page, in any order.
        character: width of a character as a fraction of the page's width.
    """
    return [part.pieces for part in _cut(list(pieces), character, MAX_DEPTH)]


def rows(pieces: Sequence[Piece]) -> list[list[Piece]]:
    """Return the pieces of one region as rows from top to bottom, each from left to right.

    Lines share a row when their centres are close and they do not overlap sideways. A picture
    is a row of its own.
    """
    found: list[list[Piece]] = []
    lefts: list[tuple[float, float]] = []
    for piece in sorted(pieces, key=lambda piece: (piece.middle, piece.box.left)):
        span = (piece.box.left, piece.box.right)
        if found and _same_row(found[-1][-1], piece) and _free(lefts, span):
            found[-1].append(piece)
            insort(lefts, span)
        else:
            found.append([piece])
            lefts = [span]
    return [sorted(row, key=lambda piece: piece.box.left) for row in found]


def _cut(pieces: list[Piece], character: float, depth: int) -> list[_Part]:
    if depth == 0 or len(pieces) < MIN_STACK:
        return [_Part(pieces)] if pieces else []
    gutter = _best_gutter(pieces, character)
    if gutter is None:
        above, below = _widest_gap(pieces)
        if not below:
            return [_Part(pieces)]
        return _joined(_cut(above, character, depth - 1) + _cut(below, character, depth - 1))
    found: list[_Part] = []
    for band in _bands(gutter):
        # What crosses one gutter may hide another; what is as large as the whole hides nothing.
        inner = _cut(band.pieces, character, depth - 1 if len(band.pieces) < len(pieces) else 0)
        found += [_Part(part.pieces, part.column or band.column) for part in inner]
    return found


def _joined(parts: list[_Part]) -> list[_Part]:
    """Join neighbours that only an empty strip had separated.

    Paragraphs and headings are told apart later, by measures that need the whole column.
    """
    found: list[_Part] = []
    for part in parts:
        if found and not (part.column or found[-1].column):
            found[-1] = _Part(found[-1].pieces + part.pieces)
        else:
            found.append(part)
    return found


def _bands(gutter: _Gutter) -> Iterator[_Part]:
    """Yield what the crossing pieces separate: left then right, then what crosses."""
    crossing = sorted(gutter.crossing, key=lambda piece: piece.middle)
    heights = [piece.middle for piece in crossing]
    lefts: list[list[Piece]] = [[] for _ in range(len(crossing) + 1)]
    rights: list[list[Piece]] = [[] for _ in range(len(crossing) + 1)]
    for side, bands in ((gutter.left, lefts), (gutter.right, rights)):
        for piece in side:
            bands[bisect_right(heights, piece.middle)].append(piece)
    across: list[Piece] = []
    for number, (left, right) in enumerate(zip(lefts, rights, strict=True)):
        if left and right and _are_columns(left, right, minimum=1):
            below = crossing[number] if number < len(crossing) else None
            title, rest = _over_what_follows(left, right, below)
            yield _Part(across)
            yield _Part(rest, column=True)
            yield _Part(right, column=True)
            across = title
        else:
            across += left + right
        if number < len(crossing):
            across.append(crossing[number])
    yield _Part(across)


def _over_what_follows(
    left: list[Piece], right: list[Piece], below: Piece | None
) -> tuple[list[Piece], list[Piece]]:
    """Return the last line of the left column if it belongs to what spans below, and the rest.

    A short title over text across both columns crosses no gutter, but stands under both columns
    and nearer to that text than to its column.
    """
    last = max(left, key=lambda piece: piece.middle)
    rest = [piece for piece in left if piece is not last]
    if below is None or last.line is None or not rest:
        return [], left
    end = max(piece.box.bottom for piece in rest + right)
    over, under = last.box.top - end, below.box.top - last.box.bottom
    return ([last], rest) if over > max(2 * under, last.height / 2) else ([], left)


def _best_gutter(pieces: list[Piece], character: float) -> _Gutter | None:
    if len(pieces) < 2 * MIN_STACK:
        return None
    for middle in _quiet_places(pieces, character):
        left = [piece for piece in pieces if piece.box.right <= middle]
        right = [piece for piece in pieces if piece.box.left >= middle]
        if _clear(left, right) >= GUTTER * character and _are_columns(left, right):
            crossing = [piece for piece in pieces if piece.box.left < middle < piece.box.right]
            return _Gutter(*_settled(left, right, crossing, middle))
    return None


def _settled(
    left: list[Piece], right: list[Piece], crossing: list[Piece], middle: float
) -> tuple[list[Piece], list[Piece], list[Piece]]:
    """Return both sides with the lines that only seem to cross, and what crosses indeed.

    A line that reaches a little over the gutter belongs to its side. Engines also read through
    a narrow gutter and give two lines as one: a few such in the midst of both columns stay on
    the left, cut to it, where they disturb one line and not the whole page.
    """
    left, right = list(left), list(right)
    heights = [sorted(piece.middle for piece in side) for side in (left, right)]
    groups: dict[tuple[int, int], list[Piece]] = {}
    for piece in crossing:
        over = (piece.box.right - middle) / (piece.box.right - piece.box.left)
        if piece.line is not None and min(over, 1 - over) < OVERHANG:
            (left if over < OVERHANG else right).append(piece)
        else:
            above, before = (bisect_left(stack, piece.middle) for stack in heights)
            groups.setdefault((above, before), []).append(piece)
    spanning: list[Piece] = []
    for (above, before), group in groups.items():
        if _enclosed(group, heights[0], above) and _enclosed(group, heights[1], before):
            left += [_cut_off(piece, middle) for piece in group]
        else:
            spanning += group
    head, right = _detached(right, left, from_top=True)
    foot, left = _detached(left, right, from_top=False)
    return left, right, spanning + head + foot


def _detached(
    side: list[Piece], other: list[Piece], *, from_top: bool
) -> tuple[list[Piece], list[Piece]]:
    """Return the few pieces of a side that stand far above (or below) both columns, and the rest.

    A short title over the right columns, or a footer under the left ones, crosses no gutter and
    still comes first or last on the page.
    """
    if from_top:
        edge = min(piece.box.top for piece in other)
        out = [piece for piece in side if piece.box.bottom < edge]
    else:
        edge = max(piece.box.bottom for piece in other)
        out = [piece for piece in side if piece.box.top > edge]
    if not 0 < len(out) <= (MERGED if from_top else 1) or len(out) == len(side):
        return [], side
    rest = [piece for piece in side if piece not in out]
    upper, lower = (out, rest) if from_top else (rest, out)
    gap = min(piece.box.top for piece in lower) - max(piece.box.bottom for piece in upper)
    # Columns seldom start at different heights, but often end so: a footer must be far below.
    far = median(piece.height for piece in rest) * (1 if from_top else 3)
    lines = all(piece.line is not None for piece in out)
    return (out, rest) if lines and gap > far else ([], side)


def _enclosed(group: list[Piece], stack: list[float], place: int) -> bool:
    """Say whether few lines stand tightly between the lines of a column, like lines of it."""
    if len(group) > MERGED or not 0 < place < len(stack):
        return False
    if any(piece.line is None for piece in group):
        return False
    reach = TIGHT * median(piece.height for piece in group)
    first, last = (choice(piece.middle for piece in group) for choice in (min, max))
    return first - stack[place - 1] < reach and stack[place] - last < reach


def _cut_off(piece: Piece, right: float) -> Piece:
    box = Box(piece.box.left, piece.box.top, right, piece.box.bottom)
    return replace(piece, box=box, length=piece.length // 2)


def _quiet_places(pieces: list[Piece], character: float) -> list[float]:
    """Return where few pieces are crossed and columns are left on both sides, emptiest first."""
    starts = sorted(piece.box.left for piece in pieces)
    ends = sorted(piece.box.right for piece in pieces)
    limit = MAX_CROSSING * len(pieces)
    places = []
    for left, right in pairwise(sorted({*starts, *ends})):
        done, begun = bisect_right(ends, left), bisect_right(starts, left)
        enough = done >= MIN_STACK and len(pieces) - begun >= MIN_STACK
        if enough and begun - done <= limit:
            places.append((begun - done, left - right, (left + right) / 2))
    chosen: list[float] = []
    for _, _, middle in sorted(places):
        if all(abs(middle - other) > APART * character for other in chosen):
            chosen.append(middle)
        if len(chosen) == CANDIDATES:
            break
    return chosen


def _clear(left: list[Piece], right: list[Piece]) -> float:
    """Return the width between two stacks, a few outliers aside."""
    ends = sorted(piece.box.right for piece in left)
    starts = sorted(piece.box.left for piece in right)
    return starts[int(len(starts) * OUTLIERS)] - ends[-1 - int(len(ends) * OUTLIERS)]


def _are_columns(left: list[Piece], right: list[Piece], minimum: int = MIN_STACK) -> bool:
    """Say whether two stacks are to be read one after the other rather than row by row."""
    stacks = [[piece for piece in side if piece.line is not None] for side in (left, right)]
    if min(len(stack) for stack in stacks) < minimum:
        return minimum == 1 and len(stacks[0]) != len(stacks[1])
    if min(_typical_length(stack) for stack in stacks) >= PROSE:
        return True
    return minimum > 1 and _shared_baselines(*stacks) < 1 / 3


def _typical_length(stack: list[Piece]) -> float:
    return median(piece.length for piece in stack)


def _length(text: str) -> int:
    """Return the length of a text in Latin characters."""
    if text.isascii():
        return len(text)
    # A Chinese or Japanese character is as wide as two Latin ones and says about as much.
    return len(text) + sum(east_asian_width(character) in "WF" for character in text)


def _shared_baselines(left: list[Piece], right: list[Piece]) -> float:
    """Return the share of the shorter stack's lines with a neighbour at the same height."""
    few, many = sorted((left, right), key=len)
    heights = sorted(piece.middle for piece in many)
    shared = 0
    for piece in few:
        reach = piece.height / 3
        near = bisect_left(heights, piece.middle - reach)
        shared += near < len(heights) and heights[near] <= piece.middle + reach
    return shared / len(few)


def _widest_gap(pieces: list[Piece]) -> tuple[list[Piece], list[Piece]]:
    """Return what is above and below the widest empty strip, with nothing below if there is none.

    A strip counts from a quarter of a line upwards: boxes of neighbouring lines often touch.
    """
    pieces = sorted(pieces, key=lambda piece: piece.box.top)
    least = median(piece.height for piece in pieces) / 4
    best, place, bottom = least, 0, pieces[0].box.bottom
    for number, piece in enumerate(pieces):
        if piece.box.top - bottom > best:
            best, place = piece.box.top - bottom, number
        bottom = max(bottom, piece.box.bottom)
    return (pieces[:place], pieces[place:]) if place else (pieces, [])


def _same_row(last: Piece, piece: Piece) -> bool:
    if last.line is None or piece.line is None:
        return False
    return piece.middle - last.middle < min(last.height, piece.height) / 2


def _free(taken: list[tuple[float, float]], span: tuple[float, float]) -> bool:
    """Say whether the span overlaps none of the row's spans by more than a fifth of itself."""
    slack = (span[1] - span[0]) / 5
    place = bisect_left(taken, span)
    before = taken[place - 1][1] if place else 0.0
    after = taken[place][0] if place < len(taken) else 1.0
    return before <= span[0] + slack and span[1] - slack <= after
