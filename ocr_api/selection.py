"""Which pages of a document: the grammar of ``pages``, and its choice.

Grammar (Mistral, Nebul): an index from 0, a list of indices, or a string of comma-separated
items ``N`` or ``N-M`` (both ends included). Ranges are kept as pairs, so that ``0-999999999``
costs nothing before it is refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from files_api.kit.errors import PagesOutOfRange, ValidationFailed

MAX_ITEMS = 1000
"""Most pages one selection may name (Nebul OCR API, "Page Selection")."""

_ITEM = re.compile(r"[ \t]*([0-9]{1,18})[ \t]*(?:-[ \t]*([0-9]{1,18})[ \t]*)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class PageSelection:
    """Pages as inclusive ranges, in the order they were asked for."""

    spans: tuple[tuple[int, int], ...]

    @classmethod
    def parse(cls, value: object) -> PageSelection:
        """Return the selection that a client wrote as ``pages``.

        Raises:
            ValidationFailed: bad grammar, a negative index, nothing, or over MAX_ITEMS pages.
        """
        if isinstance(value, str):
            items = value.split(",", MAX_ITEMS)
            _check_count(len(items))
            spans = [_span(item) for item in items]
        elif isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
            _check_count(len(value))
            spans = [(index, index) for index in map(_index, value)]
        else:
            spans = [(_index(value), _index(value))]
        if not spans:
            raise _bad("names no page; leave it out to read all pages")
        _check_count(sum(last - first + 1 for first, last in spans))
        return cls(tuple(spans))

    def choose(self, count: int) -> list[int]:
        """Return the selected indices of a document of ``count`` pages, each once, ascending.

        Raises:
            PagesOutOfRange: none of them exists.
        """
        chosen: set[int] = set()
        for first, last in self.spans:
            chosen.update(range(first, min(last, count - 1) + 1))
        if not chosen:
            raise PagesOutOfRange(
                f"None of the requested pages exists: the document has {count}, counted from 0.",
                param="pages",
            )
        return sorted(chosen)


def _bad(reason: str) -> ValidationFailed:
    return ValidationFailed(f"`pages` {reason}.", param="pages")


def _check_count(count: int) -> None:
    if count > MAX_ITEMS:
        raise _bad(f"names more than {MAX_ITEMS} pages")


def _index(value: object) -> int:
    if isinstance(value, str):
        first, last = _span(value)
        if first == last:
            return first
    elif isinstance(value, int | float) and not isinstance(value, bool) and value == value // 1:
        if 0 <= value < 10**18:
            return int(value)
        raise _bad("holds an index that is negative or far too large")
    raise _bad("takes an index, a list of indices, or a string such as '0-2,5'")


def _span(item: str) -> tuple[int, int]:
    found = _ITEM.fullmatch(item)
    if not found:
        raise _bad("takes items such as '3' or '0-2', separated by commas, counted from 0")
    first = int(found[1])
    last = int(found[2]) if found[2] else first
    if last < first:
        raise _bad(f"holds a range that runs backwards: {first}-{last}")
    return first, last
