"""Annotation through the whole chain: schemas are held by real structured outputs."""

from __future__ import annotations

import json
from enum import Enum

import pytest
from mistralai.extra import response_format_from_pydantic_model
from pydantic import BaseModel

from tests.e2e.conftest import Server as Recto
from tests.vllm import chain
from tests.vllm.asking import metric, until
from tests.vllm.chain import (
    DEEPSEEK,
    GLM,
    LIGHTON,
    MODELS,
    Json,
    mistral,
    read,
    refused,
    uri,
)
from tests.vllm.servers import Server


class Invoice(BaseModel):
    """What the tiny annotator recites."""

    invoice_number: str
    total: float


class Heading(BaseModel):
    """Of strings, as the form that GLM-OCR fills."""

    title: str
    subtitle: str | None


class Kind(Enum):
    RECEIPT = "receipt"
    INVOICE = "invoice"


class Paper(BaseModel):
    """With few possible values, so that an answer must end, whoever gives it."""

    kind: Kind
    signed: bool


CHOSEN = Paper(kind=Kind.INVOICE, signed=False)
"""Of values that it knows nothing of a tiny model takes those with the lowest token."""
TITLE = "# Invoice 2041: a screen, 27"
"""What GLM-OCR's tiny model recites until it comes to a quotation mark."""
INVOICE = Invoice(invoice_number="2041", total=43.5)


def asked(form: type[BaseModel]) -> Json:
    return dict(response_format_from_pydantic_model(form))


async def annotated(recto: Recto, model: str, form: type[BaseModel]) -> str:
    """Return the annotation of a small document that the unmodified Mistral client asked for."""
    async with mistral(recto) as client:
        answer = await client.ocr.process_async(
            model=model,
            document={"type": "document_url", "document_url": uri(chain.small_pdf())},
            document_annotation_format=response_format_from_pydantic_model(form),
        )
    assert isinstance(answer.document_annotation, str)
    assert answer.pages[0].markdown.startswith("# Invoice 2041")
    return answer.document_annotation


# --- The Mistral way -----------------------------------------------------------------------------


@pytest.mark.parametrize("model", [DEEPSEEK, LIGHTON])
async def test_annotator_fills_the_schema(
    recto: Recto, servers: dict[str, Server], model: str
) -> None:
    before = await metric(servers["text"], "vllm:request_success_total")
    text = await annotated(recto, model, Invoice)
    assert Invoice.model_validate_json(text) == INVOICE
    assert await metric(servers["text"], "vllm:request_success_total") == before + 1


async def test_glm_fills_the_schema_itself(recto: Recto, servers: dict[str, Server]) -> None:
    """It was trained to, page by page: its form of strings, held by a grammar."""
    before = await metric(servers["text"], "vllm:request_success_total")
    text = await annotated(recto, GLM, Heading)
    assert Heading.model_validate_json(text) == Heading(title=TITLE, subtitle=TITLE)
    assert await metric(servers["text"], "vllm:request_success_total") == before


@pytest.mark.parametrize("model", [DEEPSEEK, LIGHTON])
async def test_a_reader_fills_the_schema_where_there_is_no_annotator(
    stranger: Recto, model: str
) -> None:
    """Left to itself it recites its page; the grammar makes valid JSON of it."""
    text = await annotated(stranger, model, Paper)
    assert Paper.model_validate_json(text) == CHOSEN


@pytest.mark.parametrize("model", [DEEPSEEK, LIGHTON])
async def test_an_annotation_without_an_end_is_given_up(
    stranger: Recto, servers: dict[str, Server], model: str
) -> None:
    """In a string that nothing ends, the recited words come again and again."""
    status, error = await refused(
        stranger, chain.small_pdf(), model=model, document_annotation_format=asked(Heading)
    )
    assert (status, error["code"]) == (500, "annotation_failed")
    assert error["message"].endswith("the answer repeated itself without an end.")
    for name in ("deepseek_ocr", "lighton_ocr"):
        await until(servers[name], "vllm:num_requests_running", 0)


async def test_what_does_not_fit_is_an_error_with_its_reason(recto: Recto) -> None:
    """GLM-OCR's form holds strings; one of them is no number."""
    status, error = await refused(
        recto, chain.small_pdf(), model=GLM, document_annotation_format=asked(Invoice)
    )
    assert (status, error["code"]) == (500, "annotation_failed")
    assert error["message"].endswith("total: is not of type number.")
    answer = await read(
        recto,
        chain.small_pdf(),
        model=GLM,
        document_annotation_format=asked(Invoice),
        allow_partial=True,
    )
    assert answer["document_annotation"] is None
    assert [warning["code"] for warning in answer["warnings"]] == ["annotation_failed"]
    (page,) = answer["pages"]
    assert page["markdown"].startswith("# Invoice 2041")
    assert answer["usage"] == page["usage"]


@pytest.mark.parametrize("model", [DEEPSEEK, LIGHTON])
async def test_pictures_are_annotated_by_who_sees_them(recto: Recto, model: str) -> None:
    """The annotator has no eyes, so the reader itself says what its picture shows."""
    answer = await read(recto, chain.small_pdf(), model=model, bbox_annotation_format=asked(Paper))
    (image,) = answer["pages"][0]["images"]
    assert Paper.model_validate_json(image["image_annotation"]) == CHOSEN
    assert image["image_base64"] is None
    assert [warning["code"] for warning in answer["warnings"]] == ["annotation_best_effort"]


async def test_a_document_longer_than_the_context_is_asked_in_parts(
    recto: Recto, servers: dict[str, Server]
) -> None:
    """A tiny token is a byte, three times less than is counted on, so the server refuses.

    Then the pages are asked for in groups of half that size, and the answers merged.
    """
    server = servers["text"]
    before = await metric(server, "vllm:request_success_total")
    answer = await read(
        recto,
        chain.small_pdf(7),
        model=DEEPSEEK,
        document_annotation_format=asked(Invoice),
        document_annotation_prompt="Take the total with its tax. " * 75,
    )
    assert Invoice.model_validate_json(answer["document_annotation"]) == INVOICE
    assert await metric(server, "vllm:request_success_total") == before + 3


# --- The Nebul way -------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
async def test_a_prompt_alone_is_what_the_pages_are_asked(recto: Recto, model: str) -> None:
    """The answers become the annotation, a string of JSON, and the markdown as well."""
    answer = await read(
        recto, chain.small_pdf(), model=model, document_annotation_prompt="Extract the total."
    )
    (page,) = answer["pages"]
    assert json.loads(answer["document_annotation"]) == page["markdown"]
    assert page["markdown"].startswith("# Invoice 2041")
    assert answer["usage"] == page["usage"]
    assert [warning["code"] for warning in answer["warnings"]] == ["prompt_untrained"]


@pytest.mark.parametrize(("model", "form"), [(DEEPSEEK, Paper), (LIGHTON, Paper), (GLM, Heading)])
async def test_a_schema_as_the_prompt_holds_the_pages(
    recto: Recto, model: str, form: type[BaseModel]
) -> None:
    prompt = json.dumps(form.model_json_schema())
    answer = await read(recto, chain.small_pdf(), model=model, document_annotation_prompt=prompt)
    found = form.model_validate_json(answer["document_annotation"])
    assert form.model_validate_json(answer["pages"][0]["markdown"]) == found
    if model == GLM:
        assert found == Heading(title=TITLE, subtitle=TITLE)


# --- Schemas that a server refuses ---------------------------------------------------------------

NO_GRAMMAR: dict[str, Json] = {
    "regex parse error": {"type": "string", "pattern": r"(a)\1"},
    "Unsatisfiable schema": {"type": "integer", "minimum": 5, "maximum": 2},
    "Unimplemented keys": {"type": "array", "items": {"type": "string"}, "uniqueItems": True},
    "Unknown format": {"type": "string", "format": "binary"},
}
"""Valid JSON Schema that Recto's own check lets pass, by vLLM's words after "Grammar error: "."""
NO_XGRAMMAR: dict[str, Json] = {"one more rule": {"type": "number", "multipleOf": 0.01}}
"""What is refused, too, where a server has xgrammar alone, as the readers have here."""


def wrapped(inner: Json) -> Json:
    schema = {"type": "object", "properties": {"a": inner}, "required": ["a"]}
    return {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}


@pytest.mark.parametrize("case", NO_GRAMMAR)
async def test_a_schema_without_a_grammar(recto: Recto, case: str) -> None:
    """The server says so inside the stream, with status 200; the caller gets 422."""
    form = wrapped(NO_GRAMMAR[case])
    status, error = await refused(
        recto, chain.small_pdf(), model=DEEPSEEK, document_annotation_format=form
    )
    assert (status, error["code"]) == (422, "schema_refused")


@pytest.mark.parametrize("case", [*NO_GRAMMAR, *NO_XGRAMMAR])
async def test_a_schema_that_xgrammar_refuses(stranger: Recto, case: str) -> None:
    form = wrapped((NO_GRAMMAR | NO_XGRAMMAR)[case])
    status, error = await refused(
        stranger, chain.small_pdf(), model=LIGHTON, document_annotation_format=form
    )
    assert (status, error["code"]) == (422, "schema_refused")


async def test_allowing_a_partial_answer_the_pages_remain(recto: Recto) -> None:
    answer = await read(
        recto,
        chain.small_pdf(),
        model=DEEPSEEK,
        document_annotation_format=wrapped(NO_GRAMMAR["Unsatisfiable schema"]),
        allow_partial=True,
    )
    assert answer["document_annotation"] is None
    assert [warning["code"] for warning in answer["warnings"]] == ["annotation_failed"]
    assert answer["pages"][0]["markdown"].startswith("# Invoice 2041")
