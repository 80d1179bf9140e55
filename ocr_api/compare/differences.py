"""Two readings of a page: what one has and the other has not, and how alike they are.

Why not difflib: its time grows with the cube of a page on which a word comes back often, and a
document may be made for that. Myers' greedy algorithm (Algorithmica 1, 1986) takes the number of
words times the number of differences, and both have a bound here.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

MOST_PIECES, MOST_EDITS = 6000, 1200
"""Pieces of one text, and deletions and insertions together, that are looked for: the worst pair
of texts takes .6 s. A dense page of print has 1,000 words."""

# Chinese and Japanese put no spaces between words, so that each character is one (Unicode 16:
# kana, CJK ideographs with extension A, and compatibility ideographs).
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"(?:\A\s+)?(?:[{_CJK}]|[^\s{_CJK}]+)\s*|\A\s+\Z")
_LINE = re.compile(r"[^\n]*\n|[^\n]+\Z")

Kind = Literal["same", "gone", "new"]
_Steps = list[tuple[Kind, int]]
"""What happens to a piece of the first text (same, gone), or of the second (new); its number."""


@dataclass(frozen=True, slots=True)
class Change:
    """A stretch of text that both have, only the first has, or only the second has."""

    kind: Kind
    text: str
    """In the second text's own white space; of what is gone, in the first text's."""


@dataclass(frozen=True, slots=True)
class Difference:
    """How a second text differs from a first one."""

    changes: tuple[Change, ...]
    """Those that are not ``gone``, joined, are the second text."""
    similarity: float
    """0 to 1: words in common, in order, as a share of the words of both (Dice)."""
    by_lines: bool = False
    """Whole lines were compared, because the texts are too long or too different for words;
    ``similarity`` is then of words in any order, which is never less."""


def compare(first: str, second: str) -> Difference:
    """Return how the second text differs from the first; white space does not count."""
    old, new = _WORD.findall(first), _WORD.findall(second)
    ours, theirs = (Counter(filter(None, map(_bare, words))) for words in (old, new))
    steps = _steps(old, new)
    by_lines = steps is None
    if steps is None:
        common = (ours & theirs).total()
        old, new = _LINE.findall(first), _LINE.findall(second)
        steps = _steps(old, new) or _nothing_in_common(old, new)
    else:
        common = sum(kind == "same" and bool(_bare(new[at])) for kind, at in steps)
    pieces = [(kind, old[at] if kind == "gone" else new[at]) for kind, at in steps]
    both = ours.total() + theirs.total()
    return Difference(tuple(_joined(pieces)), 2 * common / both if both else 1.0, by_lines)


def _bare(piece: str) -> str:
    """Return a piece without what is no difference: how much white space stands where."""
    return " ".join(piece.split())


def _nothing_in_common(old: Sequence[str], new: Sequence[str]) -> _Steps:
    return [("gone", at) for at in range(len(old))] + [("new", at) for at in range(len(new))]


def _joined(pieces: Iterable[tuple[Kind, str]]) -> Iterator[Change]:
    """Yield neighbours of a kind as one; what is gone before what is new in its place."""
    for alike, neighbours in groupby(pieces, lambda piece: piece[0] == "same"):
        run = [*neighbours]
        kinds: tuple[Kind, ...] = ("same",) if alike else ("gone", "new")
        for wanted in kinds:
            if text := "".join(text for kind, text in run if kind == wanted):
                yield Change(wanted, text)


def _steps(old: Sequence[str], new: Sequence[str]) -> _Steps | None:
    """Return the shortest way from one list of pieces to the other; None where it is too long."""
    if max(len(old), len(new)) > MOST_PIECES:
        return None
    numbers: dict[str, int] = {}
    # Numbers compare faster than long texts.
    a, b = (
        [numbers.setdefault(_bare(piece), len(numbers)) for piece in side] for side in (old, new)
    )
    head = _common(a, b)
    a, b = a[head:], b[head:]
    tail = _common(a[::-1], b[::-1])
    trace = _trace(a[: len(a) - tail], b[: len(b) - tail])
    if trace is None:
        return None
    middle = _walk(trace, len(a) - tail, len(b) - tail)
    steps: _Steps = [("same", at) for at in range(head)]
    steps += [(kind, at + head) for kind, at in middle]
    return steps + [("same", at) for at in range(len(new) - tail, len(new))]


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """Return how many pieces at the beginning are the same."""
    count = 0
    for one, other in zip(a, b, strict=False):
        if one != other:
            break
        count += 1
    return count


def _trace(a: Sequence[int], b: Sequence[int]) -> list[list[int]] | None:
    """Return how far along ``a`` one comes with each number of edits; None: it takes too many.

    The lists begin with no common piece. After so many edits, number ``i`` stands for ``i``
    deletions and the rest insertions: as many more pieces of ``a`` than of ``b`` are behind.
    """
    trace = [[0]]
    if not a and not b:
        return trace
    for edits in range(1, min(len(a) + len(b), MOST_EDITS) + 1):
        far, reached = trace[-1], []
        for i in range(edits + 1):
            x = far[i] if _inserts(far, i) else far[i - 1] + 1
            y = x - 2 * i + edits
            while x < len(a) and y < len(b) and a[x] == b[y]:
                x, y = x + 1, y + 1
            reached.append(x)
            if x >= len(a) and y >= len(b):
                trace.append(reached)
                return trace
        trace.append(reached)
    return None


def _inserts(far: Sequence[int], i: int) -> bool:
    """Tell whether the last edit on the farthest way is an insertion."""
    return i == 0 or (i < len(far) and far[i - 1] < far[i])


def _walk(trace: Sequence[Sequence[int]], x: int, y: int) -> _Steps:
    """Return the steps of a trace that ends at a place, from the beginning on."""
    steps: _Steps = []
    for edits in range(len(trace) - 1, 0, -1):
        far, i = trace[edits - 1], (x - y + edits) // 2
        inserts = _inserts(far, i)
        start = far[i] if inserts else far[i - 1] + 1
        while x > start:
            x, y = x - 1, y - 1
            steps.append(("same", y))
        if inserts:
            y -= 1
            steps.append(("new", y))
        else:
            x -= 1
            steps.append(("gone", x))
    return steps[::-1]
