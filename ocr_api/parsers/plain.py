"""The notation of models that write markdown and nothing else."""

from __future__ import annotations

from ocr_api.parsers import Parser
from ocr_api.result import Box, Parsed, Reading, mark, plain


class Plain(Parser):
    """Takes the text as it is; pictures stand after it, since their place in it is unknown."""

    def parse(self, reading: Reading, pictures: tuple[Box, ...]) -> Parsed:
        """Return the text and a mark for each picture, each in a paragraph of its own."""
        text = plain(reading.text).strip()
        marks = [mark(number) for number in range(len(pictures))]
        return Parsed("\n\n".join([text, *marks] if text else marks))
