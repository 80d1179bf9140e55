"""Is a caller's JSON Schema one that an answer can be held to; found out before a page is read.

Everything here walks without recursion, follows references inside the schema only and fetches
nothing. What a grammar cannot express is found by the server that compiles it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from files_api.kit.errors import SchemaRefused, ValidationFailed
from ocr_api.annotate.keywords import fault
from ocr_api.annotate.walk import IN_PLACE, Path, every, subschemas, target

MAX_LEVELS = 64
"""Most levels of objects and arrays (the limit of vLLM's grammar compiler, xgrammar)."""
MAX_BYTES = 64 * 1024
"""Most bytes of a schema as compact JSON; it stands in the prompt as well."""
MAX_PARTS = 2000
"""Most objects and arrays; 0.1 ms each to check."""
MAX_CHAIN = 64
"""Most schemas that look at one and the same value, one through the other."""

INTEGERS = -(2**63), 2**64 - 1
"""Least and largest integer: what JSON libraries hold without loss, orjson's among them."""

_SHOWN = 64
_ELSEWHERE = (
    "refers to a place outside of the schema; only references such as '#/$defs/Name' are followed"
)


def check(schema: Mapping[str, Any], param: str) -> None:
    """Refuse a schema that is none, or that no answer can be held to.

    Takes up to 0.3 seconds for the largest schema: call it in a thread.

    Args:
        schema: a JSON Schema of draft 2020-12.
        param: where it stands in the request; errors name the place inside it after a dot.

    Raises:
        ValidationFailed: it is not valid JSON Schema, or not JSON.
        SchemaRefused: it is too large or too deep; a reference leads out of it, nowhere, or
            back to itself without coming closer to a value; its meaning depends on who refers to
            it (``$dynamicRef``, an ``$id`` inside).
    """
    _check_bounds(schema, param)
    parts = list(every(schema))
    for path, node in parts:
        if found := fault(node):
            place = (*path, *found.absolute_path)
            raise _error(
                ValidationFailed, param, place, f"is not JSON Schema: {_short(found.message)}"
            )
    known = {id(node) for _, node in parts}
    for path, node in parts:
        _check_reference(node, path, schema, known, param)
    _check_chains(parts, schema, param)


def _check_bounds(schema: Mapping[str, Any], param: str) -> None:
    """Refuse what is too deep or too large; looks at no more than it takes to know."""
    waiting: list[tuple[Path, Any]] = [((), schema)]
    parts = 0
    while waiting:
        path, value = waiting.pop()
        parts += 1
        if len(path) >= MAX_LEVELS:
            raise _error(SchemaRefused, param, (), f"is nested deeper than {MAX_LEVELS} levels")
        if parts > MAX_PARTS:
            raise _error(
                SchemaRefused, param, (), f"has more than {MAX_PARTS} objects and arrays in it"
            )
        inner = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, item in inner:
            if isinstance(item, Mapping | list):
                waiting.append(((*path, key), item))
            elif isinstance(item, int) and not INTEGERS[0] <= item <= INTEGERS[1]:
                reason = "is an integer of more than 64 bits"
                raise _error(SchemaRefused, param, (*path, key), reason)
    try:
        size = len(json.dumps(schema, ensure_ascii=False, allow_nan=False).encode())
    except (TypeError, ValueError) as error:  # a lone surrogate is a ValueError, too
        raise _error(ValidationFailed, param, (), "is not JSON") from error
    if size > MAX_BYTES:
        raise _error(SchemaRefused, param, (), f"is longer than {MAX_BYTES} bytes")


def _check_reference(
    node: Mapping[str, Any], path: Path, root: Mapping[str, Any], known: set[int], param: str
) -> None:
    for key in ("$dynamicRef", "$recursiveRef"):
        if key in node:
            raise _error(SchemaRefused, param, (*path, key), "is not supported; use $ref")
    if path and "$id" in node:
        raise _error(SchemaRefused, param, (*path, "$id"), "is supported at the top only")
    if "$ref" not in node:
        return
    ref, place = node["$ref"], (*path, "$ref")
    if ref != "#" and not ref.startswith("#/"):
        raise _error(SchemaRefused, param, place, _ELSEWHERE)
    found = target(root, ref)
    if found is None:
        raise _error(SchemaRefused, param, place, "refers to nothing")
    if not isinstance(found, bool) and id(found) not in known:
        raise _error(SchemaRefused, param, place, "refers to a place that holds no schema")


def _check_chains(
    parts: list[tuple[Path, Mapping[str, Any]]], root: Mapping[str, Any], param: str
) -> None:
    """Refuse schemas that refer to themselves for one value, and very long chains of them.

    A search, depth first, with a stack of its own; each schema is entered and left once.
    """
    lengths: dict[int, int] = {}
    entered: set[int] = set()
    for path, start in parts:
        waiting = [(start, False)]
        while waiting:
            node, leaving = waiting.pop()
            if leaving:
                inner = (lengths[id(item)] for item in _in_place(node, root))
                lengths[id(node)] = 1 + max(inner, default=0)
                entered.discard(id(node))
            elif id(node) in entered:
                raise _error(SchemaRefused, param, path, "refers to itself without an end")
            elif id(node) not in lengths:
                entered.add(id(node))
                waiting.append((node, True))
                waiting += [(item, False) for item in _in_place(node, root)]
        if lengths[id(start)] > MAX_CHAIN:
            raise _error(SchemaRefused, param, path, f"leads through more than {MAX_CHAIN} schemas")


def _in_place(node: Mapping[str, Any], root: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the schemas that look at the same value as this one."""
    named = target(root, node.get("$ref"))
    if isinstance(named, Mapping):
        yield named
    yield from (inner for path, inner in subschemas(node) if path[0] in IN_PLACE)


def _error(kind: type[ValidationFailed], param: str, path: Path, reason: str) -> ValidationFailed:
    """Return the error, with the place in the request as a dotted path and as a list."""
    place = [part if isinstance(part, int) else _short(part) for part in path]
    dotted = ".".join([param, *map(str, place)])
    loc = ["body", *param.split("."), *place]
    items = [{"loc": loc, "msg": reason, "type": kind.code}]
    return kind(f"`{dotted}` {reason}.", param=dotted, items=items)


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
