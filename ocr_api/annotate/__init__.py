"""Annotation: a caller's schema is filled with what a document says, as JSON text.

``schemas`` refuses a bad schema before a page is read; ``Annotator`` asks a model and holds it to
the schema; ``fold`` makes JSON of plain answers. Everything but the ``Annotator`` is pure.

Why here: a schema comes from outside and is run like a program, by the validator and by the
model's server. What it may cost is bounded in this room and nowhere else.
"""

from __future__ import annotations

from ocr_api.annotate.annotator import Annotator
from ocr_api.annotate.form import Form, accept
from ocr_api.annotate.merge import fold, merge_pages, parse_json
from ocr_api.annotate.prompts import schema_prompt
from ocr_api.annotate.schemas import check

__all__ = [
    "Annotator",
    "Form",
    "accept",
    "check",
    "fold",
    "merge_pages",
    "parse_json",
    "schema_prompt",
]
