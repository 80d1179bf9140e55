"""Which prompt the model gets, and what is said about the rest."""

from __future__ import annotations

from typing import Any

import pytest

from model_registry.card import DEFAULT_PROMPT, Card
from ocr_api.request import OcrOptions, check_support, choose_prompt, strip_control_tokens

NATIVE = "<|grounding|>Convert the document to markdown."
FREE = "Free OCR."
LOCATED = "Locate <|ref|>the total<|/ref|> in the image."


def make_card(**facts: object) -> Card:
    base: dict[str, Any] = {
        "id": "m",
        "engine": "echo",
        "parser": "plain",
        "name": "n",
        "description": "d",
        "licence": "MIT",
        "source": "s",
        "prompts": {
            "document": NATIVE,
            "plain": FREE,
            "locate": "Locate <|ref|>{text}<|/ref|> in the image.",
        },
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
        (TRAINED, "Only <image>dates<|grounding|>", None, None, "Only dates", ["prompt"]),
        (TRAINED, "Only dates", "Total", None, "Total", []),
        (TRAINED, None, "Total", None, "Total", []),
        (TRAINED, "Only dates", "Total", SCHEMA, "Only dates", []),
        (TRAINED, None, "Total", SCHEMA, NATIVE, []),
        (UNTRAINED, "Only dates", "Total", None, "Total", ["document_annotation_prompt"]),
        (NATIVE_ONLY, "Only dates", None, None, NATIVE, ["prompt"]),
        (NATIVE_ONLY, FREE, None, None, FREE, []),
        (NO_PROMPT, "Only dates", None, None, "Only dates", ["prompt"]),
        (NO_PROMPT, "table", None, None, None, ["prompt"]),
        (UNTRAINED, "plain", None, None, FREE, []),
        (UNTRAINED, " OCR ", None, None, NATIVE, []),
        (UNTRAINED, "Table", None, None, NATIVE, ["prompt"]),
        (UNTRAINED, "locate: the <image>total", None, None, LOCATED, []),
        (UNTRAINED, "<image>", None, None, NATIVE, ["prompt"]),
        (NATIVE_ONLY, "table", None, None, NATIVE, ["prompt"]),
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


def test_a_prompt_of_ones_own_is_not_native() -> None:
    assert not choose_prompt(OcrOptions(prompt="Only dates"), TRAINED).native
    assert choose_prompt(OcrOptions(prompt=FREE), TRAINED).native


def test_removed_tokens_are_reported() -> None:
    [said] = choose_prompt(OcrOptions(prompt="a <image>"), TRAINED).warnings
    assert (said.code, said.param) == ("prompt_changed", "prompt")


def test_weights_that_nobody_runs_are_a_warning() -> None:
    [said] = check_support(OcrOptions(want_images=True), UNTRAINED, "m-boxes")
    assert said.param == "include_image_base64"
    assert "m-boxes" in said.message


def test_everything_else_is_a_warning() -> None:
    options = OcrOptions(
        want_blocks=True,
        table_format="html",
        extract_header=True,
        extract_footer=True,
        confidence="word",
    )
    warnings = check_support(options, UNTRAINED)
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
    assert check_support(options, able) == ()
