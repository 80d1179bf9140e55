"""Ranges and entity tags of downloads (RFC 9110, 13.1 and 14). Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from files_api.kit.errors import RangeUnsatisfiable

# RFC 9110, 14.1.1. The unit is case-insensitive; digits of other scripts are no digits.
_UNIT = re.compile(r"bytes=(.*)", re.IGNORECASE | re.DOTALL)
_INT_RANGE = re.compile(r"([0-9]+)-([0-9]*)")
_SUFFIX_RANGE = re.compile(r"-([0-9]+)")
# RFC 9110, 8.8.3
_ENTITY_TAG = re.compile(r'(?:W/)?("[^"]*")')
_DIGITS = 19
"""More than any file's size has; ``int`` refuses some thousand."""


def entity_tag(sha256: str) -> str:
    """Return the strong entity tag of a content, from its hash in hexadecimal."""
    return f'"{sha256}"'


def wanted(
    ranges: Sequence[str], conditions: Sequence[str], tag: str, size: int
) -> tuple[int, int] | None:
    """Return which bytes a GET asks for.

    What is malformed, of another unit, or more than one range means the whole, as a server may
    answer it (14.2).

    Args:
        ranges: the values of the ``Range`` headers.
        conditions: the values of the ``If-Range`` headers: with another tag than the content's,
            or a date, the range is not meant for this content (13.1.5).
        tag: the content's entity tag.
        size: the content's bytes.

    Returns:
        The first byte and the one behind the last; None for the whole.

    Raises:
        RangeUnsatisfiable: the content has no byte in the range.
    """
    if len(ranges) != 1 or any(condition.strip() != tag for condition in conditions):
        return None
    unit = _UNIT.fullmatch(ranges[0].strip())
    asked = [part.strip() for part in unit[1].split(",")] if unit else []
    asked = [part for part in asked if part]
    return _place(asked[0], size) if len(asked) == 1 else None


def not_modified(conditions: Sequence[str], tag: str) -> bool:
    """Tell whether ``If-None-Match`` headers name a content that the client has (13.1.2)."""
    for condition in conditions:
        if condition.strip() == "*" or tag in _ENTITY_TAG.findall(condition):
            return True
    return False


def _place(asked: str, size: int) -> tuple[int, int] | None:
    if match := _SUFFIX_RANGE.fullmatch(asked):
        length = min(_number(match[1]), size)
        # Of an empty content a suffix is satisfiable (14.1.2), but no 206 can say so.
        if _number(match[1]) and not size:
            return None
        start, stop = size - length, size
    elif match := _INT_RANGE.fullmatch(asked):
        start = _number(match[1])
        last = _number(match[2]) if match[2] else max(start, size)
        if last < start:
            return None
        stop = min(last + 1, size)
    else:
        return None
    if start >= stop:
        raise RangeUnsatisfiable(size=size)
    return start, stop


def _number(digits: str) -> int:
    digits = digits.lstrip("0")
    return int(digits or "0") if len(digits) <= _DIGITS else 10**_DIGITS
