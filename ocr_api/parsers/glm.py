"""What GLM-OCR writes when it is asked alone, without its layout pipeline: markdown.

Tables come as HTML, formulas as LaTeX, and nothing says where anything stands. The few clean-ups
are those that the authors' own code (``glmocr``, its mode without a layout) makes of such
answers; its rules for single regions need labels that a bare answer does not have.
"""

from __future__ import annotations

import re

from ocr_api.markup.notation import (
    with_marks,
    without_cut_end,
    without_end_tokens,
    without_wrapper,
)
from ocr_api.parsers import Parser
from ocr_api.result import Box, Parsed, Reading, plain

# Leaders and blanks to be filled in, of which the model writes as many as it has room for; fewer
# than ten may be part of what a page says ("DE....12").
_LEADERS = re.compile(r"(\\_|[.·_])\1{9,}")
_TABS = re.compile(r"(?:\\t)+")


class Glm(Parser):
    """Takes an answer out of its code fence; pictures stand after it."""

    def parse(self, reading: Reading, pictures: tuple[Box, ...]) -> Parsed:
        """Return the text and a mark for each picture, each in a paragraph of its own."""
        text = without_wrapper(without_end_tokens(plain(reading.text)))
        text = _without_tabs(without_cut_end(text, reading))
        text = _LEADERS.sub(r"\1\1\1", text).strip()
        return Parsed(with_marks(text, range(len(pictures))))


def _without_tabs(text: str) -> str:
    """Return the text without the tabs at its ends that the model spelled out."""
    first = _TABS.match(text)
    start, end = first.end() if first else 0, len(text)
    while end > start and text.endswith("\\t", start, end):
        end -= 2
    return text[start:end]
