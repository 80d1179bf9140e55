"""A schema made ready to be asked for: once for a request, and not for each of its pages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from model_registry.card import Card
from ocr_api.annotate.prompts import page_question, region_question
from ocr_api.annotate.schemas import check
from ocr_api.annotate.skeleton import lenient


@dataclass(frozen=True, slots=True)
class Form:
    """What one card is asked, and held to, for one schema."""

    schema: Mapping[str, Any]
    asked: Mapping[str, Any]
    """What an answer about a picture must fit: the schema, or for the way of skeletons strings and
    nulls in its shape."""
    page: str
    """The question about the picture of a page."""
    region: str
    """The question about a picture that was cut out of a page."""


def accept(card: Card, schema: Mapping[str, Any], param: str, guidance: str | None = None) -> Form:
    """Return the form of a schema that this card's way of annotating can be held to.

    Takes up to 0.3 seconds for the largest schema: call it in a thread.

    Args:
        card: who will be asked.
        schema: a JSON Schema of draft 2020-12.
        param: where it stands in the request, for errors; see `schemas.check`.
        guidance: the caller's own words beside it.

    Raises:
        ValidationFailed, SchemaRefused: the schema is at fault.
    """
    check(schema, param)
    skeletons = card.annotation is not None and card.annotation.by == "skeleton"
    asked = lenient(schema, param) if skeletons else schema
    page = page_question(card, schema, guidance)
    region = page if skeletons else region_question(card, schema, guidance)
    return Form(schema, asked, page, region)
