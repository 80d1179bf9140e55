"""The waist, second half: what was read, in words that no engine and no door owns.

Boxes are fractions of the drawn page, origin at its top left corner, so that they survive any
render size; a door turns them into what its client expects.

A place in the markdown where a region stands is a *mark*: ``mark(0)`` is region 0 of that page.
Doors replace marks by their client's placeholder, or by nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

# Private-use characters (Unicode 23.5.1): no text that a reader sees holds them, and `plain`
# removes them from what an engine says, so that a document cannot forge a mark.
_OPEN, _CLOSE, _GONE = "\ue000", "\ue001", "\ue002"
_WITHOUT = str.maketrans("", "", _OPEN + _CLOSE + _GONE + "\0")
_MARK = re.compile(f"{_OPEN}(\\d+){_CLOSE}")
_TABLE_MARK = re.compile(f"{_OPEN}t(\\d+){_CLOSE}")


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

    def __sub__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens - other.prompt_tokens,
            self.completion_tokens - other.completion_tokens,
        )


@dataclass(frozen=True, slots=True)
class Line:
    """One line of text as a line-based engine saw it; confidence is 0 to 1."""

    text: str
    box: Box
    confidence: float


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of a model's answer; the texts of all of them, joined, are the answer."""

    text: str
    probability: float
    """0 to 1."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What an engine says of one page, before a parser understood it.

    A language model fills ``text`` (its own notation), a line-based engine ``lines``.
    """

    text: str = ""
    lines: tuple[Line, ...] = ()
    usage: Usage = Usage()
    finish_reason: str = "stop"
    """``stop``: the model ended by itself; ``length``: it ran out of room; ``repetition`` and
    ``implausible``: the answer was stopped because it looped, or grew beyond what the page can
    hold."""
    tokens: tuple[Token, ...] = ()
    """Pieces with probabilities, where the task asked for them and the engine has them."""
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
    table: int | None = None
    """Number of the table on this page that was moved out of the markdown."""


@dataclass(frozen=True, slots=True)
class Region:
    """A picture on the page; ``image`` is its JPEG crop where the caller asked for images."""

    box: Box
    image: bytes | None = None
    annotation: str | None = None
    """A JSON string that says what the picture shows, where the caller gave a schema for it."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table that was moved out of the markdown."""

    content: str
    format: str
    """``html`` or ``markdown``."""


@dataclass(frozen=True, slots=True)
class Warn:
    """Something the caller asked for that was not done, and why."""

    code: str
    message: str
    param: str | None = None


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a parser made of a reading."""

    markdown: str
    """The page without its running header and footer."""
    blocks: tuple[Block, ...] = ()
    confidences: tuple[float, ...] = ()
    """Confidence of each line, 0 to 1; empty where the engine has none."""
    regions: tuple[Box, ...] | None = None
    """Where the notation says that pictures stand; marks and blocks number these. None: it does
    not say, and marks number the pictures that the parser was given."""
    header: str | None = None
    footer: str | None = None
    turn: int = 0
    """Degrees clockwise (0, 90, 180, 270) by which the model says the page should be turned."""
    warnings: tuple[Warn, ...] = ()
    """About pictures; shown where pictures are wanted."""


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
    tables: tuple[Table, ...] = ()
    """Tables that the caller wanted apart; ``table_mark(n)`` in the markdown is table n."""
    header: str | None = None
    footer: str | None = None
    hyperlinks: tuple[str, ...] = ()
    confidences: tuple[float, ...] = ()
    tokens: tuple[Token, ...] = ()
    """What the model said piece by piece, where the caller asked for confidence."""
    annotation: str | None = None
    """What the model answered for the document's schema, or prompt, on this page."""
    usage: Usage = Usage()
    """Of the answers that the page is made of; none where it is reused."""
    wasted: Usage = Usage()
    """Of answers that were thrown away."""
    saved: Usage = Usage()
    """What the page took when it was read; where it is reused."""
    reused: bool = False
    """Whether the page was read before, and not again for this request."""
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
    text = _MARK.sub(lambda found: render(int(found[1])) or _GONE, markdown)
    text = re.sub(f"(?:^|\n\n){_GONE}(?=\n\n|$)", "", text).removeprefix("\n\n")
    return text.replace(_GONE, "")


def table_mark(number: int) -> str:
    """Return the mark of table ``number`` of the page."""
    return f"{_OPEN}t{number}{_CLOSE}"


def replace_table_marks(markdown: str, render: Callable[[int], str]) -> str:
    """Return the markdown with every mark of a table replaced by ``render(table number)``."""
    return _TABLE_MARK.sub(lambda found: render(int(found[1])), markdown)


def keep_regions(parsed: Parsed, kept: Sequence[int]) -> Parsed:
    """Return the page with these of its regions only, numbered anew in the order given.

    Marks of the others vanish from the markdown, and image blocks of the others with them.
    """
    places = {old: new for new, old in enumerate(kept)}
    markdown = replace_marks(
        parsed.markdown, lambda old: mark(places[old]) if old in places else ""
    )
    blocks = tuple(
        block if block.region is None else replace(block, region=places[block.region])
        for block in parsed.blocks
        if block.region is None or block.region in places
    )
    regions = parsed.regions and tuple(parsed.regions[old] for old in kept)
    return replace(parsed, markdown=markdown, blocks=blocks, regions=regions)


def plain(text: str) -> str:
    """Return engine text without the characters that make a mark, and without NUL.

    No page holds a NUL, and PostgreSQL and many a client refuse one.
    """
    return text.translate(_WITHOUT)
