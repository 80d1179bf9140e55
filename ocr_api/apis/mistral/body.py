"""What clients send: the union of Mistral's and Nebul's OCR request."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from files_api.kit.errors import MissingDocument, ValidationFailed
from ocr_api.request import FileSource, InlineSource, OcrOptions, Source, UrlSource
from ocr_api.selection import PageSelection

MAX_PROMPT = 32_768
"""Most characters of a prompt; more than any model's context has room for."""
TIMEOUT_HEADER = "X-Request-Timeout"
MOST_SECONDS = 86_400
"""The longest deadline that a request may ask for, a day; the server's own may be shorter."""
EVENT_STREAM = "text/event-stream"

_SECONDS = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_REFUSED_QUALITY = re.compile(r"q=0(?:\.0*)?")
"""RFC 9110, 12.5.1: a type with this weight is not acceptable."""


class FileOcrBody(BaseModel):
    """How to read an uploaded file. Unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore")

    model: str | None = Field(
        None, max_length=200, description="Public model name; absent means the default."
    )
    pages: Any = Field(
        None,
        description="Index from 0, list of indices, or a string such as '0-2,5'; at most 1000.",
        examples=["0-2"],
        json_schema_extra={
            "anyOf": [
                {"type": "integer", "minimum": 0},
                {"type": "string"},
                {"type": "array", "items": {"type": "integer", "minimum": 0}, "maxItems": 1000},
                {"type": "null"},
            ]
        },
    )
    prompt: str | None = Field(
        None, max_length=MAX_PROMPT, description="What the model is asked; default: its own."
    )
    document_annotation_prompt: str | None = Field(
        None,
        max_length=MAX_PROMPT,
        description="Like prompt, and the output also fills document_annotation.",
    )
    document_annotation_format: dict[str, Any] | None = Field(
        None, description="{type: json_schema, json_schema: {name, schema}} for the document."
    )
    bbox_annotation_format: dict[str, Any] | None = Field(
        None, description="The same, for each picture."
    )
    include_image_base64: bool | None = Field(None, description="Put pictures into the answer.")
    image_limit: Annotated[int, Field(ge=0)] | None = Field(
        None, description="Most pictures in the whole answer; 0 means none."
    )
    image_min_size: Annotated[int, Field(ge=0)] | None = Field(
        None, description="Least width and height of a picture, in pixels."
    )
    table_format: Literal["markdown", "html"] | None = Field(
        None, description="Move tables out of the markdown, in this format."
    )
    extract_header: bool | None = Field(None, description="Move the running header out.")
    extract_footer: bool | None = Field(None, description="Move the running footer out.")
    include_blocks: bool | None = Field(None, description="Put layout blocks into the answer.")
    confidence_scores_granularity: Literal["word", "page", "block"] | None = Field(
        None, description="Put confidence scores into the answer."
    )
    skip_special_tokens: bool | None = Field(
        None, description="Strip the model's own markup from its output; the default."
    )
    allow_partial: bool | None = Field(
        None, description="Answer with the pages that could be read; the others carry an error."
    )
    skip_cache: bool | None = Field(
        None, description="Read every page anew, also those that were kept, and keep none."
    )
    stream: bool | None = Field(
        None,
        description="Answer with server-sent events, a page each; default: as Accept says.",
    )
    org_id: Any = Field(
        None,
        description="The organisation, as in X-Org-Id; another than the key's needs a service key.",
        json_schema_extra={"type": ["string", "null"]},
    )

    @field_validator("document_annotation_format", "bbox_annotation_format")
    @classmethod
    def _only_schemas(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value is None:
            return None
        kind, described = value.get("type", "json_schema"), value.get("json_schema")
        schema = described.get("schema") if isinstance(described, Mapping) else None
        if kind != "json_schema" or not isinstance(schema, Mapping):
            raise ValueError("takes {type: json_schema, json_schema: {name, schema}} only")
        return value


class OcrBody(FileOcrBody):
    """A document and how to read it."""

    model_config = ConfigDict(json_schema_extra={"required": ["document"]})

    document: Any = Field(
        None,
        description=(
            "{type: document_url, document_url}, {type: image_url, image_url}, "
            "{type: file, file_id}, or {type: content, document_content}; type may be missing, "
            "and org_id may stand here, too."
        ),
        json_schema_extra={"type": "object"},
        examples=[{"type": "document_url", "document_url": "https://example.com/document.pdf"}],
    )


def organisations_of(body: FileOcrBody) -> dict[str, object]:
    """Return what stands where a body may name an organisation, by path; None where nothing does.

    Nebul's clients put it beside the file's id.
    """
    named: dict[str, object] = {"org_id": body.org_id}
    if isinstance(body, OcrBody) and isinstance(body.document, Mapping):
        named["document.org_id"] = body.document.get("org_id")
    return named


def to_options(body: FileOcrBody) -> OcrOptions:
    """Return the options in the waist's words.

    Raises:
        ValidationFailed: ``pages`` has bad grammar.
    """
    images = bool(body.include_image_base64)
    blocks = bool(body.include_blocks)
    return OcrOptions(
        pages=None if body.pages is None else PageSelection.parse(body.pages),
        prompt=body.prompt,
        annotation_prompt=body.document_annotation_prompt,
        annotation_format=body.document_annotation_format,
        region_annotation_format=body.bbox_annotation_format,
        # Nebul lists pictures only with their bytes, Mistral always: contract, clash C2.
        want_regions=images or blocks or body.bbox_annotation_format is not None,
        want_images=images,
        want_blocks=blocks,
        image_limit=body.image_limit,
        image_min_size=body.image_min_size,
        table_format=body.table_format,
        extract_header=bool(body.extract_header),
        extract_footer=bool(body.extract_footer),
        confidence=body.confidence_scores_granularity,
        skip_special_tokens=body.skip_special_tokens is not False,
        allow_partial=bool(body.allow_partial),
        skip_cache=bool(body.skip_cache),
    )


def timeout_of(values: Sequence[str]) -> float | None:
    """Return the seconds that the headers `TIMEOUT_HEADER` give the request; None for none.

    Raises:
        ValidationFailed: not one decimal number above 0, and at most `MOST_SECONDS`.
    """
    if not values:
        return None
    text = values[0].strip()
    seconds = float(text) if len(values) == 1 and _SECONDS.fullmatch(text) else 0.0
    if 0 < seconds <= MOST_SECONDS:
        return seconds
    said = f"{TIMEOUT_HEADER} is a number of seconds above 0 and at most {MOST_SECONDS}."
    where = {"loc": ["header", TIMEOUT_HEADER], "msg": said, "type": "value_error"}
    raise ValidationFailed(said, param=TIMEOUT_HEADER, items=[where])


def wants_events(body: FileOcrBody, accepted: Sequence[str]) -> bool:
    """Tell whether the answer is to be a stream of events.

    Args:
        body: its ``stream`` decides, where it is there.
        accepted: the values of the header ``Accept``; else the event stream must be named there.
    """
    if body.stream is not None:
        return body.stream
    for offer in ",".join(accepted).split(","):
        kind, *options = (part.strip().lower() for part in offer.split(";"))
        if kind == EVENT_STREAM:
            return not any(map(_REFUSED_QUALITY.fullmatch, options))
    return False


_VARIANTS = {
    "document_url": "document_url",
    "image_url": "image_url",
    "file": "file_id",
    "file_id": "file_id",
    "content": "document_content",
}
_KEYS = ("document_url", "image_url", "file_id", "document_content", "base64_document")


def source_of(body: OcrBody) -> Source:
    """Return the document that the body names, by its ``type`` or by the key that is there.

    Raises:
        MissingDocument: there is none.
        ValidationFailed: it has the wrong shape.
    """
    document = body.document
    if document is None:
        raise MissingDocument(param="document")
    if not isinstance(document, Mapping):
        raise ValidationFailed("`document` is an object.", param="document")
    key = _VARIANTS.get(str(document.get("type")), "")
    if document.get(key) is None:
        key = next((name for name in _KEYS if document.get(name) is not None), "")
    if not key:
        raise MissingDocument(param="document")
    value = document[key]
    if key in {"image_url", "document_url"} and isinstance(value, Mapping):
        value = value.get("url")
    param = f"document.{key}"
    if not isinstance(value, str):
        raise ValidationFailed(f"`{param}` is a string.", param=param)
    if not value.strip():
        raise MissingDocument(param=param)
    if key == "file_id":
        return FileSource(value, param)
    if key in {"document_url", "image_url"} and value.lstrip()[:5].lower() != "data:":
        return UrlSource(value, param)
    return InlineSource(value, param)
