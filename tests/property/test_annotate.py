"""Annotation on odd input: what comes out is always JSON, and nothing raises."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError

from files_api.kit.errors import ValidationFailed
from ocr_api.annotate import check, fold, merge_pages, schema_prompt
from ocr_api.annotate.coerce import coerce, number
from ocr_api.annotate.fitting import problems
from ocr_api.annotate.keywords import fault
from ocr_api.annotate.merge import dump
from ocr_api.annotate.prompts import page_groups
from ocr_api.annotate.skeleton import lenient, skeleton
from ocr_api.annotate.walk import every

# Every code point, halves of surrogate pairs and control characters among them.
texts = st.text(st.characters(exclude_categories=()), max_size=20)
plain = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), texts
)
values = st.recursive(
    plain,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
jsons = values.map(json.dumps) | values.map(lambda value: json.dumps(value, ensure_ascii=False))
outputs = st.one_of(
    texts,
    jsons,
    jsons.map(lambda text: f"```json\n{text}\n```"),
    st.dictionaries(st.sampled_from("abc"), values, max_size=3).map(json.dumps),
    st.sampled_from(["```", "``````", "```json", "{", "NaN", "1e999", '{"a": Infinity}', "-0"]),
)

names = st.sampled_from(["a", "b", "$ref", "pattern"])
refs = st.sampled_from(["#", "#/$defs/a", "#/$defs/b", "#/properties/a", "#/x", "#/items", "x"])
kinds = st.sampled_from(
    ["string", "number", "integer", "boolean", "array", "object", "null", ["string", "null"]]
)


def schema_of(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {},
        optional={
            "type": kinds | st.just("strng"),
            "properties": st.dictionaries(names, inner, max_size=3),
            "$defs": st.dictionaries(names, inner, max_size=2),
            "required": st.lists(names, max_size=2, unique=True),
            "items": inner,
            "prefixItems": st.lists(inner, max_size=2),
            "additionalProperties": inner | st.booleans(),
            "anyOf": st.lists(inner, max_size=3),
            "oneOf": st.lists(inner, max_size=2),
            "allOf": st.lists(inner, max_size=2),
            "not": inner,
            "enum": st.lists(plain, max_size=3),
            "const": plain,
            "$ref": refs,
            "pattern": st.sampled_from(["(a+)+$", "("]),
            "minLength": st.integers(-1, 3),
            "multipleOf": st.sampled_from([1, 0.1, 1e-300]),
            "uniqueItems": st.booleans(),
        },
    )


schemas = st.recursive(
    st.just({}) | st.builds(lambda kind: {"type": kind}, kinds), schema_of, max_leaves=8
)


@settings(max_examples=100, deadline=None)
@given(st.lists(outputs, max_size=4))
@example(["\ud800"])
@example(['"\ud800"', '{"a": "\\ud800"}'])
@example(['{"a": 1e308}', '{"b": 1}'])
@example(["[" * 5000, "]"])
def test_fold_always_gives_json(said: list[str]) -> None:
    folded = fold(said)
    folded.encode()
    value = json.loads(folded)
    if len(said) > 1 and not isinstance(value, dict):
        assert len(value) == len(said)


@settings(max_examples=100, deadline=None)
@given(st.lists(values, max_size=4))
def test_merging_one_page_changes_nothing_and_any_number_gives_json(pages: list[Any]) -> None:
    json.loads(dump(merge_pages(pages)))
    for page in pages:
        assert merge_pages([page]) is page


@settings(max_examples=100, deadline=None)
@given(schemas)
def test_well_formed_is_what_the_metaschema_says(schema: dict[str, Any]) -> None:
    try:
        Draft202012Validator.check_schema(schema, format_checker=None)
        valid = True
    except SchemaError:
        valid = False
    assert valid == all(fault(node) is None for _, node in every(schema))


@settings(max_examples=100, deadline=None)
@given(schemas, values)
def test_an_accepted_schema_never_makes_anything_raise(schema: dict[str, Any], value: Any) -> None:
    try:
        check(schema, "schema")
    except ValidationFailed as error:
        json.dumps(error.details())
        return
    assert len(problems(schema, value)) <= 5
    form = skeleton(schema)
    assert problems(lenient(schema), form) == []
    coerce(schema, form)
    json.dumps(coerce(schema, value)[0])


@settings(max_examples=100, deadline=None)
@given(schemas.filter(lambda schema: "pattern" not in json.dumps(schema)), values)
def test_fitting_agrees_with_the_library(schema: dict[str, Any], value: Any) -> None:
    try:
        check(schema, "schema")
    except ValidationFailed:
        return
    assert (problems(schema, value) == []) == Draft202012Validator(schema).is_valid(value)


@settings(max_examples=100, deadline=None)
@given(st.text("0123456789.,-+ ()€%EURx'", max_size=12), st.booleans())
def test_a_number_is_a_number_or_none(text: str, whole: bool) -> None:
    found = number(text, whole=whole)
    assert found is None or (isinstance(found, int) if whole else isinstance(found, int | float))


@settings(max_examples=100, deadline=None)
@given(st.floats(-1e9, 1e9).map(lambda value: round(value, 2)))
def test_money_is_read_back_in_both_notations(value: float) -> None:
    english = f"{value:,.2f}"
    german = english.translate(str.maketrans(",.", ".,"))
    assert number(english) == number(german) == value


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 999), st.text(max_size=300)), max_size=6),
    st.integers(64, 400),
)
def test_grouping_loses_nothing(pages: list[tuple[int, str]], room: int) -> None:
    clean = [(index, text.encode("utf-8", "replace").decode()) for index, text in pages]
    joined = [piece for group in page_groups(clean, room) for piece in group]
    assert "".join(text for _, text in joined) == "".join(text for _, text in clean)


@settings(max_examples=100, deadline=None)
@given(texts | jsons)
def test_any_prompt_may_be_asked_whether_it_is_a_schema(text: str) -> None:
    found = schema_prompt(text)
    assert found is None or isinstance(found, dict)
