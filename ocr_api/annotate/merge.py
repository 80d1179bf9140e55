"""What models answered, page by page, becomes one piece of JSON.

JSON here is RFC 8259 and nothing looser: a client in another language must be able to read it, so
NaN, Infinity and numbers too large for a double are text, and half of a surrogate pair is U+FFFD.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NoReturn

MAX_LEVELS = 100
"""Most levels of objects and arrays in an answer; deeper ones are text."""

_LABEL = re.compile(r"[ \t]{0,4}[\w+.\-]{0,20}[ \t]{0,4}\r?\n|json\b", re.IGNORECASE)
_HALVES = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class NotJson:
    """The text is not JSON."""

    reason: str


def parse_json(text: str) -> Any:
    """Return the value of a model's answer, or NotJson.

    The answer is JSON, in a code fence or not, or prose with one object in it.
    Strict, save that of equal keys the last one wins. Deeper than 100 levels is NotJson.
    """
    value = parse_exact(text)
    if not isinstance(value, NotJson):
        return value
    start = text.find("{")
    if start < 0:
        return value
    try:
        found, end = _DECODER.raw_decode(text, start)
    except (RecursionError, ValueError):
        return value
    if "{" in text[end:] or not _shallow(found):
        return NotJson("more than one object, or too deep")
    return found


def parse_exact(text: str) -> Any:
    """Return the value of a text that is JSON from end to end but for a code fence, or NotJson."""
    try:
        value = _DECODER.decode(without_fence(text))
    except RecursionError:
        return NotJson("nested too deep")
    except ValueError as error:
        # The decoder's own message holds no text of the document, only a place.
        return NotJson(str(error) if isinstance(error, json.JSONDecodeError) else "a bad number")
    return value if _shallow(value) else NotJson("nested too deep")


def without_fence(text: str) -> str:
    """Return the text without white space around it, and without a Markdown code fence."""
    text = text.strip().removeprefix("\ufeff").strip()
    if not text.startswith("```"):
        return text
    inner = text.removeprefix("```").removesuffix("```")
    label = _LABEL.match(inner)
    return (inner[label.end() :] if label else inner).strip()


def dump(value: Any) -> str:
    """Return a value as compact JSON, other scripts written as they are."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return whole(text)


def whole(text: str) -> str:
    """Return the text with U+FFFD for each half of a surrogate pair: it has no UTF-8."""
    return _HALVES.sub("\ufffd", text)


def fold(outputs: Sequence[str]) -> str:
    """Return what a model said of each page as one JSON text (design, decision 8).

    One page: the output itself without its code fence where it is JSON, else as a JSON string.
    Several: one object merged key by key where every page gave an object (the first value that is
    not empty wins, lists are joined, objects in it likewise), else an array by page. A page
    without any output, such as a blank one, gives nothing to the object and "" to the array.
    """
    if len(outputs) == 1:
        text = outputs[0]
        return dump(text) if _is_text(parse_exact(text)) else whole(without_fence(text))
    values = [_or_text(text) for text in outputs]
    said = [value for value in values if value != ""]
    if said and all(isinstance(value, dict) for value in said):
        return dump(_joined(said, keep_all=True))
    return dump(values)


def merge_pages(values: Sequence[Any]) -> Any:
    """Return one value for answers that fill the same schema, page by page.

    The first scalar that is not empty wins; objects are merged key by key; lists are joined, and
    an item that an earlier page gave is not given again. One page's value is returned as it is.
    """
    return _joined(values, keep_all=False)


def _joined(values: Sequence[Any], *, keep_all: bool) -> Any:
    told = [value for value in values if not _empty(value)]
    if not told:
        return next(iter(values), None)
    begun = told[0]
    if not told[1:]:
        return begun
    if isinstance(begun, dict):
        return _joined_objects([value for value in told if isinstance(value, dict)], keep_all)
    if isinstance(begun, list):
        lists = [value for value in told if isinstance(value, list)]
        return list(chain.from_iterable(lists)) if keep_all else _joined_lists(lists)
    return begun


def _joined_objects(objects: Sequence[Mapping[str, Any]], keep_all: bool) -> dict[str, Any]:
    by_key: dict[str, list[Any]] = {}
    for item in objects:
        for key, value in item.items():
            by_key.setdefault(key, []).append(value)
    return {key: _joined(found, keep_all=keep_all) for key, found in by_key.items()}


def _joined_lists(lists: Sequence[list[Any]]) -> list[Any]:
    """Join lists; what a page says twice is said twice, what another said before is not."""
    joined: list[Any] = []
    seen: set[str] = set()
    for items in lists:
        keyed = [(json.dumps(item, sort_keys=True), item) for item in items]
        joined += [item for key, item in keyed if key not in seen]
        seen.update(key for key, _ in keyed)
    return joined


def _empty(value: Any) -> bool:
    return value is None or value in ("", [], {})


def _or_text(text: str) -> Any:
    value = parse_exact(text)
    if not _is_text(value):
        return value
    return text if text.strip() else ""


def _is_text(value: Any) -> bool:
    return isinstance(value, NotJson)


def _shallow(value: Any) -> bool:
    waiting = [(value, 1)] if isinstance(value, dict | list) else []
    while waiting:
        item, level = waiting.pop()
        if level > MAX_LEVELS:
            return False
        inner = item.values() if isinstance(item, dict) else item
        waiting += [(one, level + 1) for one in inner if isinstance(one, dict | list)]
    return True


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(text)
    return value


def _refuse(name: str) -> NoReturn:
    raise ValueError(name)


_DECODER = json.JSONDecoder(parse_float=_finite, parse_constant=_refuse)
