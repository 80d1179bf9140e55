"""The street of exports: a result becomes a file.

A leaf is a file with one class that implements `Export`; it declares the formats it makes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from files_api.kit import named
from ocr_api.result import Result

STREET = "ocr_api.exports"


class Export(ABC):
    """Writes results in one or more formats."""

    formats: ClassVar[Mapping[str, str]]
    """Format name, which is also the file extension, to media type."""

    @abstractmethod
    def render(self, result: Result, fmt: str) -> bytes:
        """Return the result in one of ``formats``; text is UTF-8 and ends with a newline."""


def table() -> dict[str, Export]:
    """Return every format that some leaf makes, with the leaf."""
    found: dict[str, Export] = {}
    for name in named.names(STREET):
        export = named.leaf(STREET, name, Export)()  # type: ignore[type-abstract]
        found.update(dict.fromkeys(export.formats, export))
    return found
