"""Where schemas stand inside a JSON Schema, and what its references name.

Only the keywords of draft 2020-12 (and ``definitions``, which it still knows) are looked into: a
property may be called ``$ref`` and an example may look like a schema.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

Path = tuple[str | int, ...]
"""Keys and places that lead from the root to a schema inside it."""

IN_PLACE = frozenset({"allOf", "anyOf", "oneOf", "not", "if", "then", "else", "dependentSchemas"})
"""Keywords whose schemas look at the same value as the schema that holds them."""

_ONE = frozenset(
    {
        "additionalProperties",
        "contains",
        "contentSchema",
        "else",
        "if",
        "items",
        "not",
        "propertyNames",
        "then",
        "unevaluatedItems",
        "unevaluatedProperties",
    }
)
_SEVERAL = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_NAMED = frozenset({"$defs", "definitions", "dependentSchemas", "patternProperties", "properties"})

_MOST_ALTERNATIVES = 32
_MOST_NESTED = 16
_DIGITS = 6
_MOST_MERGED = 256
MAX_STEPS = 100_000
"""Keywords and property names that are copied at most to find what a schema's parts mean: some
20 ms. The largest schema that `schemas.check` lets through, if it is plain, takes 10,000."""


def subschemas(schema: Mapping[str, Any]) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """Yield the schemas that stand directly in this one, with their paths from it."""
    for key, value in schema.items():
        if key in _ONE:
            inner: list[tuple[Path, Any]] = [((key,), value)]
        elif key in _SEVERAL and isinstance(value, list):
            inner = [((key, place), item) for place, item in enumerate(value)]
        elif key in _NAMED and isinstance(value, Mapping):
            inner = [((key, name), item) for name, item in value.items()]
        else:
            continue
        yield from ((path, item) for path, item in inner if isinstance(item, Mapping))


def every(schema: Mapping[str, Any]) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """Yield the schema and all schemas in it, with their paths; references are not followed."""
    waiting: list[tuple[Path, Mapping[str, Any]]] = [((), schema)]
    while waiting:
        path, node = waiting.pop()
        yield path, node
        waiting += [((*path, *more), inner) for more, inner in subschemas(node)]


def target(root: Mapping[str, Any], ref: object) -> Any:
    """Return what a local reference names (RFC 6901), or None where it names nothing."""
    if not isinstance(ref, str) or not (ref == "#" or ref.startswith("#/")):
        return None
    found: Any = root
    for raw in unquote(ref).split("/")[1:]:
        part = raw.replace("~1", "/").replace("~0", "~")
        if isinstance(found, Mapping):
            found = found.get(part)
        elif isinstance(found, list) and part.isdecimal() and len(part) <= _DIGITS:
            found = found[int(part)] if int(part) < len(found) else None
        else:
            return None
    return found


@dataclass(frozen=True, slots=True)
class Shape:
    """What a schema asks of a value, with references and ``allOf`` merged in."""

    keys: Mapping[str, Any]
    refs: tuple[str, ...] = ()
    """References that were followed to get here."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """Return its types in the order it names them, or the one its keywords speak of."""
        named = self.keys.get("type")
        if isinstance(named, str):
            return (named,)
        if isinstance(named, list):
            return tuple(kind for kind in named if isinstance(kind, str))
        if "properties" in self.keys or "additionalProperties" in self.keys:
            return ("object",)
        return ("array",) if "items" in self.keys or "prefixItems" in self.keys else ()

    @property
    def null(self) -> bool:
        """Tell whether it takes nothing but null."""
        if "const" in self.keys:
            return self.keys["const"] is None
        return self.kinds == ("null",) or self.keys.get("enum") == [None]

    @property
    def takes_null(self) -> bool:
        """Tell whether it takes null."""
        if "const" in self.keys:
            return self.keys["const"] is None
        if "enum" in self.keys and None not in self.keys["enum"]:
            return False
        return not self.kinds or "null" in self.kinds


@dataclass(slots=True)
class _Gathering:
    keys: dict[str, Any] = field(default_factory=dict)
    refs: list[str] = field(default_factory=list)
    branches: list[Any] = field(default_factory=list)


class TooManyShapesError(Exception):
    """To find what a schema may mean takes more steps than any real schema does."""


class Shapes:
    """What the schemas inside one schema may mean; each is looked at once."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        """Take the schema that references point into; it must not change from now on."""
        self._root = root
        # The schema stands beside its shapes, so that no other object gets its id.
        self._known: dict[int, tuple[object, list[Shape]]] = {}
        self._left = MAX_STEPS

    def of(self, schema: object) -> list[Shape]:
        """Return what a schema may mean: one shape, or one per branch of ``anyOf``/``oneOf``.

        Bounded: at most 32 shapes, and a chain of references that does not end is cut.

        Raises:
            TooManyShapesError: all schemas that were asked for so far took too many steps.
        """
        return self._of(schema, 0)

    def first(self, schema: object) -> Shape:
        """Return the first shape of a schema that is not null alone; raises as `of` does."""
        found = self.of(schema)
        return next((shape for shape in found if not shape.null), found[0] if found else Shape({}))

    def _of(self, schema: object, depth: int) -> list[Shape]:
        known = self._known.get(id(schema))
        if known is None:
            # Where branches are cut for their depth the shapes are fewer than they could be.
            known = schema, self._branched(schema, depth)
            self._known[id(schema)] = known
        return known[1]

    def _branched(self, schema: object, depth: int) -> list[Shape]:
        shape, branches = self._merged(schema)
        if not branches or depth >= _MOST_NESTED:
            return [shape]
        found: list[Shape] = []
        for branch in branches:
            for inner in self._of(branch, depth + 1):
                keys: dict[str, Any] = dict(shape.keys)
                self._add(keys, inner.keys)
                found.append(Shape(keys, (*shape.refs, *inner.refs)))
                if len(found) == _MOST_ALTERNATIVES:
                    return found
        return found

    def _merged(self, schema: object) -> tuple[Shape, list[Any]]:
        """Return the schema with references and ``allOf`` in it, and its first branches."""
        got = _Gathering()
        waiting, steps = deque([schema]), 0
        while waiting and (steps := steps + 1) <= _MOST_MERGED:
            node = waiting.popleft()
            if not isinstance(node, Mapping):
                continue
            self._add(got.keys, node)
            if isinstance(node.get("$ref"), str):
                got.refs.append(node["$ref"])
                waiting.append(target(self._root, node["$ref"]))
            if isinstance(node.get("allOf"), list):
                waiting += node["allOf"]
            for key in ("anyOf", "oneOf"):
                if isinstance(node.get(key), list) and not got.branches:
                    got.branches = node[key]
        return Shape(got.keys, tuple(got.refs)), got.branches

    def _add(self, keys: dict[str, Any], more: Mapping[str, Any]) -> None:
        """Add keywords to those found before; those found first win, properties are united."""
        self._left -= 1 + len(more)
        for key, value in more.items():
            if key in {"$ref", "allOf", "anyOf", "oneOf"}:
                continue
            if key == "properties" and isinstance(value, Mapping):
                keys[key] = {**value, **keys.get(key, {})}
                self._left -= len(keys[key])
            elif key == "required" and isinstance(value, list):
                keys[key] = list(dict.fromkeys((*keys.get(key, []), *value)))
                self._left -= len(keys[key])
            else:
                keys.setdefault(key, value)
        if self._left < 0:
            raise TooManyShapesError
