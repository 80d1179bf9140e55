"""Why a value does not fit a schema, in words that quote nothing of the value.

Patterns are left out: a caller's regular expression could hold up everybody for hours (Python's
engine goes back over its steps), and the server's grammar has kept to them. Where a schema has
some, rules that would turn round by it (``not``, ``if``, exactly one of) are left out with them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from functools import cache
from itertools import islice
from typing import Any, cast

from jsonschema import Draft202012Validator, validators
from jsonschema.exceptions import ValidationError, best_match
from referencing import Registry

from ocr_api.annotate.walk import every

MOST = 5
"""Most problems that are listed."""
UNCHECKED = "the answer is too deeply nested, or the schema branches too much, to be checked"

_STEPS = 5_000
_STEPS_PER_VALUE = 60
_SHOWN = 64
_LEFT_OUT = frozenset({"$anchor", "$comment", "$id", "$schema", "$vocabulary", "format"})
_PATTERNS = frozenset({"pattern", "patternProperties"})
_TURNED_ROUND = frozenset(
    {
        "additionalProperties",
        "else",
        "if",
        "maxContains",
        "not",
        "then",
        "unevaluatedItems",
        "unevaluatedProperties",
    }
)
_NAMES = frozenset({"$defs", "definitions", "dependentSchemas", "properties"})
_VALUES = frozenset({"const", "default", "dependentRequired", "enum", "examples"})


class _TooMuchError(Exception):
    """The check took more steps than its value is worth."""


_left: ContextVar[int] = ContextVar("_left")


def problems(schema: Mapping[str, Any], value: Any) -> list[str]:
    """Return why the value does not fit the schema, at most five reasons; none if it fits.

    A reason names a place and a rule. Names that the schema does not hold are written ``*``,
    because they may be a document's words.

    Args:
        schema: one that `schemas.check` let through.
        value: anything that JSON holds.
    """
    token = _left.set(_STEPS + _STEPS_PER_VALUE * _count(value))
    found: list[str] = []
    try:
        checker = _checker()(_lean(schema), registry=Registry())
        for error in islice(checker.iter_errors(value), MOST):
            reason = _reason(error, schema)
            if reason not in found:
                found.append(reason)
    except (ArithmeticError, RecursionError, _TooMuchError):
        return [UNCHECKED]
    finally:
        _left.reset(token)
    return found


def _count(value: Any) -> int:
    waiting, count = [value], 0
    while waiting:
        item = waiting.pop()
        count += 1
        if isinstance(item, Mapping):
            waiting += item.values()
        elif isinstance(item, list):
            waiting += item
    return count


@cache
def _checker() -> Any:
    """Return the library's validator, made to count its steps."""
    counted = {key: _counting(rule) for key, rule in Draft202012Validator.VALIDATORS.items()}
    counted["uniqueItems"] = _unique
    return validators.extend(Draft202012Validator, counted)  # type: ignore[no-untyped-call]


def _counting(rule: Any) -> Any:
    def check(*given: Any) -> Iterator[ValidationError]:
        left = _left.get()
        if left <= 0:
            raise _TooMuchError
        _left.set(left - 1)
        yield from rule(*given) or ()

    return check


def _unique(_: Any, wanted: Any, value: Any, __: Any) -> Iterator[ValidationError]:
    """Compare items as JSON: the library's way takes the square of their number."""
    if wanted is True and isinstance(value, list):
        seen = {json.dumps(item, sort_keys=True) for item in value}
        if len(seen) < len(value):
            yield ValidationError("holds an item twice")


def _lean(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the schema without what is not checked here, and without its dialect and ids."""
    loose = any(key in node for _, node in every(schema) for key in _PATTERNS)
    lean: Mapping[str, Any] = _leaner(schema, loose)
    return lean


def _leaner(node: Any, loose: bool) -> Any:
    if isinstance(node, list):
        return [_leaner(item, loose) for item in node]
    if not isinstance(node, Mapping):
        return node
    lean: dict[str, Any] = {}
    for key, value in node.items():
        if key in _LEFT_OUT or key in _PATTERNS or (loose and _turns_round(key, node)):
            continue
        if key in _NAMES and isinstance(value, Mapping):
            lean[key] = {name: _leaner(inner, loose) for name, inner in value.items()}
        elif loose and key == "oneOf":
            lean.setdefault("allOf", []).append({"anyOf": _leaner(value, loose)})
        elif key == "allOf":
            lean["allOf"] = _leaner(value, loose) + lean.get("allOf", [])
        else:
            lean[key] = value if key in _VALUES else _leaner(value, loose)
    return lean


def _turns_round(key: str, node: Mapping[str, Any]) -> bool:
    """Tell whether a rule may refuse more, now that a pattern is left out."""
    if key == "additionalProperties":
        return "patternProperties" in node
    return key in _TURNED_ROUND


def _reason(error: ValidationError, schema: Mapping[str, Any]) -> str:
    closest = best_match(iter([error])) or error
    place = _place(closest.absolute_path, schema)
    return f"{place}: {_rule(closest)}"


def _place(path: Iterable[str | int], schema: Mapping[str, Any]) -> str:
    named = {name for _, node in every(schema) for name in node.get("properties", ())}
    parts = [
        str(part) if isinstance(part, int) else part[:_SHOWN] if part in named else "*"
        for part in path
    ]
    return ".".join(parts) or "the answer"


def _rule(error: ValidationError) -> str:
    rule, wanted = error.validator, cast(Any, error.validator_value)
    if rule == "required" and isinstance(error.instance, Mapping):
        missing = [name[:_SHOWN] for name in wanted if name not in error.instance]
        return f"lacks {', '.join(missing[:MOST])}"
    if rule == "type":
        kinds = [wanted] if isinstance(wanted, str) else wanted
        return f"is not of type {' or '.join(kinds)}"
    words = {
        "additionalProperties": "has a property that the schema does not name",
        "anyOf": "fits none of its alternatives",
        "const": "is not the one value allowed",
        "enum": "is none of the values allowed",
        "oneOf": "fits none of its alternatives, or more than one",
        "uniqueItems": "holds an item twice",
    }
    if not isinstance(rule, str):
        return "is not allowed"
    number = f" {wanted}" if isinstance(wanted, int | float) else ""
    return words.get(rule, f"does not keep to `{rule}`{number}")
