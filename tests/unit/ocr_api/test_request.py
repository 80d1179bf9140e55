"""Which prompt the model gets, and what is said about the rest."""

from __future__ import annotations

from typing import Any

import pytest

from files_api.kit.errors import AnnotationUnsupported
from model_registry.card import DEFAULT_PROMPT, Card
from ocr_api.request import OcrOptions, check_support, choose_prompt, strip_control_tokens

NATIVE = "<|grounding|>Convert the document to markdown."
FREE = "Free OCR."


def make_card(**facts: object) -> Card:
    base: dict[str, Any] = {
        "id": "m",
        "engine": "echo",
        "parser": "plain",
        "name": "n",
        "description": "d",
        "licence": "MIT",
        "source": "s",
        "prompts": {"document": NATIVE, "plain": FREE},
        "control_tokens": ["<image>", "<|grounding|>"],
    }
    return Card.model_validate({**base, **facts})


UNTRAINED = make_card()
TRAINED = make_card(capabilities={"free_prompts": True})
NATIVE_ONLY = make_card(prompt_policy="native_only")
NO_PROMPT = make_card(prompts={})
SCHEMA = {"type": "json_schema", "json_schema": {"name": "n", "schema": {}}}


@pytest.mark.parametrize(
    ("card", "prompt", "annotation", "schema", "expected", "warned"),
    [
        (UNTRAINED, None, None, None, NATIVE, []),
        (UNTRAINED, "", "", None, NATIVE, []),
        (UNTRAINED, DEFAULT_PROMPT, None, None, NATIVE, []),
        (UNTRAINED, f"  {DEFAULT_PROMPT.upper()}\n", None, None, NATIVE, []),
        (UNTRAINED, FREE, None, None, FREE, []),
        (UNTRAINED, NATIVE, None, None, NATIVE, []),
        (UNTRAINED, "Only dates", None, None, "Only dates", ["prompt"]),
        (TRAINED, "Only dates", None, None, "Only dates", []),
        (TRAINED, "Only <image>dates<|grounding|>", None, None, "Only dates", []),
        (TRAINED, "Only dates", "Total", None, "Total", []),
        (TRAINED, None, "Total", None, "Total", []),
        (TRAINED, "Only dates", "Total", SCHEMA, "Only dates", []),
        (TRAINED, None, "Total", SCHEMA, NATIVE, []),
        (UNTRAINED, "Only dates", "Total", None, "Total", ["document_annotation_prompt"]),
        (NATIVE_ONLY, "Only dates", None, None, NATIVE, ["prompt"]),
        (NATIVE_ONLY, FREE, None, None, FREE, []),
        (NO_PROMPT, "Only dates", None, None, None, ["prompt"]),
        (NO_PROMPT, None, None, None, None, []),
        (NO_PROMPT, DEFAULT_PROMPT, None, None, None, []),
    ],
)
def test_prompt_precedence(
    card: Card,
    prompt: str | None,
    annotation: str | None,
    schema: dict[str, Any] | None,
    expected: str | None,
    warned: list[str],
) -> None:
    options = OcrOptions(prompt=prompt, annotation_prompt=annotation, annotation_format=schema)
    ask = choose_prompt(options, card)
    assert ask.prompt == expected
    assert [warning.param for warning in ask.warnings] == warned


def test_control_tokens_cannot_be_smuggled_in_pieces() -> None:
    assert strip_control_tokens("a<im<image>age>b", ("<image>",)) == "ab"
    assert strip_control_tokens("<|x|><|x", ("<|x|>", "<|x")) == ""


def test_annotation_is_refused_and_names_who_can() -> None:
    for options, param in (
        (OcrOptions(annotation_prompt="Total"), "document_annotation_prompt"),
        (OcrOptions(annotation_format=SCHEMA), "document_annotation_format"),
        (OcrOptions(region_annotation_format=SCHEMA), "bbox_annotation_format"),
    ):
        with pytest.raises(AnnotationUnsupported, match="can: one, two") as caught:
            check_support(options, UNTRAINED, ["one", "two"])
        assert caught.value.param == param
    with pytest.raises(AnnotationUnsupported, match="none of those served here"):
        check_support(OcrOptions(annotation_prompt="Total"), UNTRAINED, [])


def test_everything_else_is_a_warning() -> None:
    options = OcrOptions(
        want_blocks=True,
        table_format="html",
        extract_header=True,
        extract_footer=True,
        confidence="word",
    )
    warnings = check_support(options, UNTRAINED, [])
    assert [warning.param for warning in warnings] == [
        "include_blocks",
        "table_format",
        "extract_header",
        "extract_footer",
        "confidence_scores_granularity",
    ]
    able = make_card(
        capabilities={"blocks": True, "tables": True, "headers": True, "confidence": ["word"]}
    )
    assert check_support(options, able, []) == ()
