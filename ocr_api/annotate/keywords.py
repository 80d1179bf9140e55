"""Is one schema object well formed: the metaschema of draft 2020-12, one keyword at a time.

Why: the metaschema asks a schema and all that stands in it at once, through seven vocabularies
and dynamic references: 1.4 ms for each small property, so that a large schema would hold up
everybody for seconds. Its rules are taken from it keyword by keyword, and whoever walks through
a schema asks for each object in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError, best_match
from jsonschema_specifications import REGISTRY  # type: ignore[import-untyped]

_META = "https://json-schema.org/draft/2020-12/meta/"
_VOCABULARIES = (
    "core",
    "applicator",
    "unevaluated",
    "validation",
    "meta-data",
    "format-annotation",
    "content",
)
_A_SCHEMA = {"type": ["object", "boolean"]}
_LOCAL = "#/$defs/"


def fault(node: Mapping[str, Any]) -> ValidationError | None:
    """Return what is wrong with the keywords of one schema object, or None.

    A schema inside it need only be an object or a boolean here. Formats are not looked at, so
    that patterns are not compiled: Python's rules for them are not JSON Schema's.
    """
    rules = _rules()
    for key, value in node.items():
        if key not in rules:
            continue
        found: ValidationError | None = best_match(rules[key].iter_errors(value))
        if found is not None:
            found.path.appendleft(key)
            return found
    return None


@cache
def _rules() -> dict[str, Any]:
    """Return a validator for the value of each keyword; made once, in some milliseconds."""
    anything = {"type": "object", "additionalProperties": _A_SCHEMA}
    rules: dict[str, Any] = {"definitions": anything}
    for name in _VOCABULARIES:
        vocabulary = REGISTRY.contents(_META + name)
        shared = vocabulary.get("$defs", {})
        for key, rule in vocabulary["properties"].items():
            rules[key] = _alone(rule, shared)
    return {key: Draft202012Validator(rule, registry=REGISTRY) for key, rule in rules.items()}


def _alone(part: Any, shared: Mapping[str, Any]) -> Any:
    """Return a rule with what it refers to put in its place."""
    if isinstance(part, list):
        return [_alone(inner, shared) for inner in part]
    if not isinstance(part, dict):
        return part
    if part.get("$dynamicRef") == "#meta":
        return _A_SCHEMA
    rule = {key: _alone(inner, shared) for key, inner in part.items() if key != "$ref"}
    named = part.get("$ref", "").removeprefix(_LOCAL)
    return {**_alone(shared[named], shared), **rule} if named else rule
