"""A schema as the empty form that GLM-OCR was trained to fill in, and the way back.

The model gets the form as JSON with empty strings, answers in strings, and the strings become
what the schema declares.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from files_api.kit.errors import SchemaRefused
from ocr_api.annotate.walk import Shapes, TooManyShapesError

MAX_FIELDS = 1000
"""Most parts of a form: references may make a small schema a very large form."""

_TURNS = 2
_LEVELS = 24


@dataclass(frozen=True, slots=True)
class _Leaf:
    """A string to be filled in."""


@dataclass(frozen=True, slots=True)
class _Record:
    """An object; ``rest`` is what a map's values are, where it names no fields of its own."""

    fields: Mapping[str, _Form]
    rest: _Form | None = None


@dataclass(frozen=True, slots=True)
class _Listing:
    """An array: items with a place of their own first, then any number of ``item``."""

    leading: tuple[_Form, ...]
    item: _Form | None


_Form = _Leaf | _Record | _Listing
_LEAF = _Leaf()


def skeleton(schema: Mapping[str, Any], param: str | None = None) -> Any:
    """Return the empty form of a schema: nested objects, one sample item per array, "" else.

    Of alternatives the first that is not null is taken; a schema in itself is shown twice.

    Args:
        schema: one that `schemas.check` let through.
        param: where it stands in the request, for the error.

    Raises:
        SchemaRefused: the form has too many parts, or the schema too many branches.
    """
    return _empty(_form(schema, param))


def lenient(schema: Mapping[str, Any], param: str | None = None) -> dict[str, Any]:
    """Return the schema of a filled form: its shape, with a string or null at each leaf.

    Raises:
        SchemaRefused: as `skeleton` does.
    """
    return _constraint(_form(schema, param))


def _form(schema: Mapping[str, Any], param: str | None = None) -> _Form:
    try:
        return _Planner(schema, param).plan(schema, ("#",), 0) or _LEAF
    except TooManyShapesError as error:
        reason = "The schema branches too much to be made into a form."
        raise SchemaRefused(reason, param=param) from error


class _Planner:
    """Turns one schema into a form; counts its parts."""

    def __init__(self, root: Mapping[str, Any], param: str | None) -> None:
        self._shapes = Shapes(root)
        self._param = param
        self._parts = 0

    def plan(self, schema: object, refs: tuple[str, ...], level: int) -> _Form | None:
        """Return the form, or None where a schema stands in itself too often."""
        shape = self._shapes.first(schema)
        refs = (*refs, *shape.refs)
        if level > _LEVELS or any(refs.count(ref) > _TURNS for ref in shape.refs):
            return None
        self._parts += 1
        if self._parts > MAX_FIELDS:
            reason = f"The schema makes a form of more than {MAX_FIELDS} fields."
            raise SchemaRefused(reason, param=self._param)
        kind = next((kind for kind in shape.kinds if kind != "null"), None)
        if kind == "object":
            return self._record(shape.keys, refs, level)
        return self._listing(shape.keys, refs, level) if kind == "array" else _LEAF

    def _record(self, keys: Mapping[str, Any], refs: tuple[str, ...], level: int) -> _Form:
        fields = {}
        for name, inner in keys.get("properties", {}).items():
            form = self.plan(inner, refs, level + 1)
            if form is not None:
                fields[name] = form
        others = keys.get("additionalProperties", True)
        if keys.get("properties") or others is False:
            return _Record(fields)
        return _Record({}, self.plan(others, refs, level + 1) or _LEAF)

    def _listing(self, keys: Mapping[str, Any], refs: tuple[str, ...], level: int) -> _Form | None:
        leading = tuple(
            self.plan(inner, refs, level + 1) or _LEAF for inner in keys.get("prefixItems", ())
        )
        if leading:
            return _Listing(leading, None)
        item = self.plan(keys.get("items", True), refs, level + 1)
        return None if item is None else _Listing((), item)


def _empty(form: _Form) -> Any:
    if isinstance(form, _Record):
        return {name: _empty(inner) for name, inner in form.fields.items()}
    if isinstance(form, _Listing):
        sample = form.leading if form.item is None else (form.item,)
        return [_empty(inner) for inner in sample]
    return ""


def _constraint(form: _Form) -> dict[str, Any]:
    if isinstance(form, _Record) and form.rest is not None:
        return {"type": "object", "additionalProperties": _constraint(form.rest)}
    if isinstance(form, _Record):
        return {
            "type": "object",
            "properties": {name: _constraint(inner) for name, inner in form.fields.items()},
            "required": list(form.fields),
            "additionalProperties": False,
        }
    if isinstance(form, _Listing) and form.item is not None:
        return {"type": "array", "items": _constraint(form.item)}
    if isinstance(form, _Listing):
        leading = [_constraint(inner) for inner in form.leading]
        return {
            "type": "array",
            "prefixItems": leading,
            "items": False,
            "minItems": len(leading),
        }
    return {"type": ["string", "null"]}
