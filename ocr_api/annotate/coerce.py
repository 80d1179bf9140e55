"""Strings that a model filled into a form become what the schema declares.

Careful rather than clever: a string that may mean two things stays a string, and whoever checks
the value against the schema then says so.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Any

from ocr_api.annotate.walk import Shape, Shapes, TooManyShapesError

_WORDS = {
    **dict.fromkeys(
        ("true", "yes", "ja", "oui", "sí", "sì", "si", "sim", "x", "☑", "☒", "✓"), True
    ),
    **dict.fromkeys(("false", "no", "nein", "nee", "non", "não", "☐"), False),
}
"""What a form says for yes and no, in the languages of western Europe, and by its boxes."""

_MOST_DIGITS = 40
# Ordinary, no-break, narrow no-break and thin spaces, and the Swiss apostrophes.
_GAPS = " \u00a0\u202f\u2009'\u2019"
_UNIT = re.compile(r"^(?:[A-Z]{3}\s*)?(.*?)\s*(?:[A-Z]{3}|%)?$", re.DOTALL)
_PLAIN = re.compile(r"[0-9]+")
_GROUPED = re.compile(r"[0-9]{1,3}(?:([.,])[0-9]{3})(?:\1[0-9]{3})*")
_INDIAN = re.compile(r"[0-9]{1,2}(?:,[0-9]{2})+,[0-9]{3}")
_SPACED = re.compile(rf"[0-9]{{1,3}}(?:[{_GAPS}][0-9]{{3}})+")

_GONE = object()


def coerce(schema: Mapping[str, Any], value: Any) -> tuple[Any, int]:
    """Return the value with its strings turned into the declared types, and how many were dropped.

    "" becomes null where the schema takes null, and goes where a property may be absent; items of
    an array that hold nothing go. What cannot be turned, or not in one way only ("N/A" is no
    number), is dropped where the schema takes null in its place, and stays as it is elsewhere.
    Never raises.
    """
    turner = _Turner(schema)
    try:
        return turner.turn(schema, value), turner.dropped
    except (RecursionError, TooManyShapesError):
        return value, 0


class _Turner:
    """Turns the values of one schema."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._shapes = Shapes(root)
        self.dropped = 0

    def turn(self, schema: object, value: Any) -> Any:
        """Return the value as the schema wants it, as far as that is clear."""
        if isinstance(value, Mapping):
            return self._record(self._record_keys(schema, value), value)
        if isinstance(value, list):
            return self._listing(self._listing_keys(schema), value)
        shapes = self._shapes.of(schema)
        if _void(value):
            return None if any(shape.takes_null for shape in shapes) else value
        for shape in shapes:
            turned = _scalar(shape, value)
            if turned is not _GONE:
                return turned
        if any(shape.takes_null for shape in shapes):
            self.dropped += 1
            return None
        return value

    def _record_keys(self, schema: object, value: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the keywords of the alternative that a record was meant for.

        That is the one whose fixed values it does not contradict (a record that says
        ``"kind": "cash"`` is no card), that misses least and has a name for most of it. The first
        of those that do as well; whether it fits is for the check to say.
        """
        fitting = [shape.keys for shape in self._shapes.of(schema) if "object" in shape.kinds]
        if not fitting:
            return self._shapes.first(schema).keys
        return min(fitting, key=lambda keys: self._strangeness(keys, value))

    def _strangeness(self, keys: Mapping[str, Any], value: Mapping[str, Any]) -> tuple[int, ...]:
        """Return how badly a record fits: contradictions, missing names, names unheard of."""
        declared = keys.get("properties", {})
        said = {name for name, item in value.items() if not _void(item)}
        against = sum(self._contradicts(declared[name], value[name]) for name in said & {*declared})
        unsaid = {*keys.get("required", ())} - said
        # A fixed value need not be said.
        missing = sum(not _is_constant(self._shapes.of(declared.get(name))) for name in unsaid)
        return against, missing, len(said - {*declared})

    def _contradicts(self, schema: object, item: Any) -> bool:
        shapes = self._shapes.of(schema)
        fixed = all("const" in shape.keys or "enum" in shape.keys for shape in shapes)
        return fixed and all(_scalar(shape, item) is _GONE for shape in shapes)

    def _listing_keys(self, schema: object) -> Mapping[str, Any]:
        fitting = (shape.keys for shape in self._shapes.of(schema) if "array" in shape.kinds)
        return next(fitting, self._shapes.first(schema).keys)

    def _record(self, keys: Mapping[str, Any], value: Mapping[str, Any]) -> dict[str, Any]:
        declared = keys.get("properties", {})
        required = keys.get("required", ())
        others = keys.get("additionalProperties", True)
        turned = {}
        for name, item in value.items():
            inner = declared.get(name, others)
            done = self._property(inner, item, name in required or name not in declared)
            if done is not _GONE:
                turned[name] = done
        for name in required:
            if name in declared and name not in turned:
                filler = self._filler(declared[name])
                if filler is not _GONE:
                    turned[name] = filler
        return turned

    def _property(self, schema: object, item: Any, needed: bool) -> Any:
        if not _void(item):
            return self.turn(schema, item)
        shapes = self._shapes.of(schema)
        if _is_constant(shapes):
            return shapes[0].keys["const"]
        if any(shape.takes_null for shape in shapes):
            return None
        if not needed:
            return _GONE
        if isinstance(item, Mapping | list):
            return self.turn(schema, item)
        filler = self._filler(schema)
        return "" if filler is _GONE else filler

    def _filler(self, schema: object) -> Any:
        """Return what stands for nothing in a property that must be there."""
        shapes = self._shapes.of(schema)
        kinds = {kind for shape in shapes for kind in shape.kinds}
        if any(shape.takes_null for shape in shapes):
            return None
        if "array" in kinds:
            return []
        return "" if "string" in kinds else _GONE

    def _listing(self, keys: Mapping[str, Any], value: list[Any]) -> list[Any]:
        leading = keys.get("prefixItems", [])
        turned = [self.turn(inner, item) for inner, item in zip(leading, value, strict=False)]
        rest = keys.get("items", True)
        return turned + [self.turn(rest, item) for item in value[len(leading) :] if not _void(item)]


def _is_constant(shapes: list[Shape]) -> bool:
    return len(shapes) == 1 and "const" in shapes[0].keys


def _void(value: Any) -> bool:
    """Tell whether a value holds nothing: null, blank strings, and containers of them."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, Mapping):
            waiting += item.values()
        elif isinstance(item, list):
            waiting += item
        elif not (item is None or (isinstance(item, str) and not item.strip())):
            return False
    return True


def _scalar(shape: Shape, value: Any) -> Any:
    """Return the value as this shape wants it, or _GONE."""
    if "const" in shape.keys:
        return _chosen([shape.keys["const"]], value)
    if "enum" in shape.keys:
        return _chosen(shape.keys["enum"], value)
    if not shape.kinds:
        return value
    for kind in shape.kinds:
        turned = _typed(kind, value)
        if turned is not _GONE:
            return turned
    return _GONE


def _chosen(options: list[Any], value: Any) -> Any:
    """Return the option that the value names, letter case aside where that leaves one."""
    if value in options:
        return value
    for fold in (str.strip, lambda text: " ".join(text.split()).casefold()):
        named = [option for option in options if fold(_text(option)) == fold(_text(value))]
        if len(named) == 1:
            return named[0]
    return _GONE


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else str(value)


def _typed(kind: str, value: Any) -> Any:
    if isinstance(value, bool):
        return value if kind == "boolean" else _GONE
    if isinstance(value, int | float):
        if kind == "number" or (kind == "integer" and value == value // 1):
            return value
        return str(value) if kind == "string" else _GONE
    if kind == "string":
        return value
    if kind == "boolean":
        return _WORDS.get(value.strip().casefold(), _GONE)
    found = number(value, whole=kind == "integer") if kind in {"number", "integer"} else None
    return _GONE if found is None else found


def number(text: str, *, whole: bool = False) -> int | float | None:
    """Return the number that a text says in one way only, or None.

    Both separators ("1,250.00", "1.250,00"): the last is the decimal one. One of them: decimal
    unless three digits follow, grouping if it stands more than once. "1,250" may be either and is
    None, unless it starts with a zero or, for whole numbers, ends in other digits than zeros.

    Args:
        text: may carry a currency or a per cent sign; "(5.00)" and "5.00-" are below zero.
        whole: an integer is wanted.
    """
    digits, negative = _bare(text)
    if not digits or len(digits) > _MOST_DIGITS:
        return None
    found = _magnitude(digits, whole)
    if found is None or (whole and found != int(found)):
        return None
    found = int(found) if whole else found
    return -found if negative else found


def _bare(text: str) -> tuple[str, bool]:
    """Return a number's text without currency and sign, and whether it is below zero."""
    text = text.strip()[: 2 * _MOST_DIGITS + 1]
    negative = text.startswith("(") and text.endswith(")")
    text = text[1:-1] if negative else text
    text = "".join(sign for sign in text if unicodedata.category(sign) != "Sc").strip()
    found = _UNIT.match(text)
    text = (found[1] if found else text).replace("\u2212", "-").strip()
    if not negative and text.startswith("-") != text.endswith("-"):
        return text.removeprefix("-").removesuffix("-").strip(), True
    return text.removeprefix("+").strip(), negative


def _magnitude(digits: str, whole: bool) -> int | float | None:
    if _PLAIN.fullmatch(digits):
        return int(digits)
    last = max(digits.rfind("."), digits.rfind(","))
    head, tail = (digits, "") if last < 0 else (digits[:last], digits[last + 1 :])
    if last < 0:
        return int(re.sub(r"\D", "", digits)) if _SPACED.fullmatch(digits) else None
    if not _PLAIN.fullmatch(tail):
        return None
    if not re.search(r"[.,]", head):
        return _one_separator(head, tail, whole)
    if digits[last] in head:
        grouped = _GROUPED.fullmatch(digits) or _INDIAN.fullmatch(digits)
        return int(re.sub(r"\D", "", digits)) if grouped else None
    grouped = _GROUPED.fullmatch(head) or _INDIAN.fullmatch(head)
    return float(f"{re.sub('[^0-9]', '', head)}.{tail}") if grouped else None


def _one_separator(head: str, tail: str, whole: bool) -> int | float | None:
    """Return the number of ``head`` and ``tail`` with one dot or comma between them."""
    if _SPACED.fullmatch(head):
        return float(f"{re.sub('[^0-9]', '', head)}.{tail}")
    if not (_PLAIN.fullmatch(head) or not head):
        return None
    if _GROUPED.fullmatch(f"{head}.{tail}") and not head.startswith("0"):
        return int(head + tail) if whole and tail != "000" else None
    return float(f"{head or 0}.{tail}")
