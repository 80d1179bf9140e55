"""The street of parsers: an engine's notation becomes markdown and blocks.

A leaf is a file with one class that implements `Parser`; a card names the file.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from ocr_api.result import Box, Parsed, Reading


class Parser(ABC):
    """Understands one notation."""

    @abstractmethod
    def parse(self, reading: Reading, pictures: tuple[Box, ...]) -> Parsed:
        """Return markdown and blocks for one page. Never raises, whatever the reading holds.

        Args:
            reading: what the engine said.
            pictures: regions of the page that hold a picture. A parser that knows where text
                stands puts ``mark(n)`` of picture ``n`` where it belongs in reading order.
        """
