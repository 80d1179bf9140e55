"""The waist, second half: what was read, in words that no engine and no door owns.

Boxes are fractions of the drawn page, origin at its top left corner, so that they survive any
render size; a door turns them into what its client expects.

A place in the markdown where a region stands is a *mark*: ``mark(0)`` is region 0 of that page.
Doors replace marks by their client's placeholder, or by nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

# Private-use characters (Unicode 23.5.1): no text that a reader sees holds them, and `plain`
# removes them from what an engine says, so that a document cannot forge a mark.
_OPEN, _CLOSE = "\ue000", "\ue001"
_MARK = re.compile(f"{_OPEN}(\\d+){_CLOSE}")


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle as fractions (0 to 1) of the drawn page; left <= right, top <= bottom."""

    left: float
    top: float
    right: float
    bottom: float

    @classmethod
    def of(cls, left: float, top: float, right: float, bottom: float) -> Box:
        """Return the box with its corners sorted and cut to the page."""
        xs = sorted((min(max(left, 0.0), 1.0), min(max(right, 0.0), 1.0)))
        ys = sorted((min(max(top, 0.0), 1.0), min(max(bottom, 0.0), 1.0)))
        return cls(xs[0], ys[0], xs[1], ys[1])

    def pixels(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Return left, top, right, bottom in pixels of a page of that size."""
        return (
            round(self.left * width),
            round(self.top * height),
            round(self.right * width),
            round(self.bottom * height),
        )

    def turned(self, degrees: int) -> Box:
        """Return the box of the same place on a page turned clockwise by 0, 90, 180 or 270."""
        box = self
        for _ in range(degrees // 90):
            box = Box(1 - box.bottom, box.left, 1 - box.top, box.right)
        return box

    @property
    def area(self) -> float:
        """Return the share of the page that the box covers, 0 to 1."""
        return (self.right - self.left) * (self.bottom - self.top)


WHOLE_PAGE = Box(0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that an engine counted; an engine without tokens reports 0, never an estimate."""

    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
        )


@dataclass(frozen=True, slots=True)
class Line:
    """One line of text as a line-based engine saw it; confidence is 0 to 1."""

    text: str
    box: Box
    confidence: float


@dataclass(frozen=True, slots=True)
class Reading:
    """What an engine says of one page, before a parser understood it.

    A language model fills ``text`` (its own notation), a line-based engine ``lines``.
    """

    text: str = ""
    lines: tuple[Line, ...] = ()
    usage: Usage = Usage()
    finish_reason: str = "stop"
    turned: int = 0
    """Degrees clockwise (0, 90, 180, 270) that the engine turned the page by to read it; boxes are
    of the turned page."""


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of the page in reading order.

    ``kind`` is one of Mistral's block types (text, title, list, table, image, equation, caption,
    code, references, aside_text, header, footer, signature). An image block has the number of
    its region on this page and no text.
    """

    kind: str
    box: Box
    text: str = ""
    confidence: float | None = None
    minimum_confidence: float | None = None
    region: int | None = None


@dataclass(frozen=True, slots=True)
class Region:
    """A picture on the page; ``image`` is its JPEG crop where the caller asked for images."""

    box: Box
    image: bytes | None = None


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a parser made of a reading."""

    markdown: str
    blocks: tuple[Block, ...] = ()
    confidences: tuple[float, ...] = ()
    """Confidence of each line, 0 to 1; empty where the engine has none."""


@dataclass(frozen=True, slots=True)
class Warn:
    """Something the caller asked for that was not done, and why."""

    code: str
    message: str
    param: str | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """One page that was read. ``width`` and ``height`` are pixels of the drawn page."""

    index: int
    """Place in the document, from 0; never renumbered by a selection."""
    width: int
    height: int
    dpi: int
    markdown: str = ""
    blocks: tuple[Block, ...] = ()
    regions: tuple[Region, ...] = ()
    confidences: tuple[float, ...] = ()
    usage: Usage = Usage()
    seconds: float = 0.0
    """Wall-clock time of drawing and reading."""
    warnings: tuple[Warn, ...] = ()
    error: str | None = None
    """Why the page could not be read, where the caller allowed a partial answer."""


@dataclass(frozen=True, slots=True)
class Result:
    """A document that was read."""

    id: str
    model: str
    """The public name that was asked for."""
    card: str
    """The card that answered."""
    document_bytes: int
    pages: tuple[Page, ...] = ()
    warnings: tuple[Warn, ...] = ()
    annotation: str | None = None
    """A JSON string, or None when no annotation was asked for."""
    usage: Usage = field(default=Usage())


def mark(number: int) -> str:
    """Return the mark of region ``number`` of the page, to be put into markdown."""
    return f"{_OPEN}{number}{_CLOSE}"


def replace_marks(markdown: str, render: Callable[[int], str]) -> str:
    """Return the markdown with every mark replaced by ``render(region number)``.

    A mark that becomes nothing takes its paragraph break with it.
    """
    text = _MARK.sub(lambda found: render(int(found[1])) or _OPEN, markdown)
    text = re.sub(f"(?:^|\n\n){_OPEN}(?=\n\n|$)", "", text).removeprefix("\n\n")
    return text.replace(_OPEN, "")


def plain(text: str) -> str:
    """Return engine text without the characters that make a mark."""
    return text.replace(_OPEN, "").replace(_CLOSE, "")
