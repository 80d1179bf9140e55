"""Pages per second of each parser, and of what is done with its markdown, in one process.

The page has 4 kB: a heading, paragraphs and a table of twelve rows, in each notation.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from files_api.kit import named
from ocr_api.app import PARSERS
from ocr_api.markup.confidence import words
from ocr_api.markup.links import hyperlinks
from ocr_api.markup.tables import lift_tables
from ocr_api.parsers import Parser
from ocr_api.result import Reading, Token
from tests.bench.table import Row

ROUNDS = 5
SECONDS = 0.2

_PARAGRAPH = (
    "The quarterly figures show that spending on research rose by 12.5 % to $4,210 (see"
    " https://example.org/r&d), while the rest of the budget stayed as it was. The quarterly"
    " figures of last year, which were printed in the annex, show the same again, and again. "
)
_CELLS = "".join(
    f"<tr><td>Row {row}</td><td>{row * 7}</td><td>a &amp; b</td></tr>" for row in range(12)
)
_TABLE = f"<table>{_CELLS}</table>"
_MARKDOWN = "\n\n".join(["# Report", *[_PARAGRAPH] * 13, _TABLE])


def _tag(label: str, top: int) -> str:
    return f"<|ref|>{label}<|/ref|><|det|>[[91, {top}, 905, {top + 55}]]<|/det|>\n"


_GROUNDED = [
    _tag("title", 20) + "# Report",
    *[_tag("text", 60 * row + 80) + _PARAGRAPH for row in range(10)],
    _tag("image", 700),
    _tag("table_caption", 760) + "Table 1",
    _tag("table", 800) + _TABLE,
    _tag("page_number", 940) + "7",
]
_FRONT = "---\nprimary_language: en\nis_rotation_valid: True\nrotation_correction: 0\n---\n"
PAGES = {
    "deepseek": "\n\n".join(_GROUNDED),
    "glm": f"```markdown\n{_MARKDOWN}\n```",
    "lighton": f"{_MARKDOWN}\n\n![image](image_1.png) 120,300,480,700",
    "plain": _MARKDOWN,
    "qwen": f"{_FRONT}{_MARKDOWN}\n\n<img>A logo</img>\n\n<page_number>7</page_number>",
}


def measure() -> list[Row]:
    """Parse each notation's page, then handle its markdown; the best of the rounds."""
    rows = []
    for name, text in PAGES.items():
        parser = named.leaf(PARSERS, name, Parser)()  # type: ignore[type-abstract]
        assert parser.parse(Reading(text=text), ()).markdown.startswith("# Report")
        rows.append(_row(f"parser {name}", partial(parser.parse, Reading(text=text), ())))
    tokens = tuple(Token(_MARKDOWN[at : at + 4], 0.9) for at in range(0, len(_MARKDOWN), 4))
    assert len(words(_MARKDOWN, tokens)) > 400
    return [
        *rows,
        _row("tables moved out", lambda: lift_tables(_MARKDOWN, "markdown")),
        _row("links", lambda: hyperlinks(_MARKDOWN)),
        _row("confidence of words", lambda: words(_MARKDOWN, tokens)),
    ]


def _row(what: str, work: Callable[[], object]) -> Row:
    seconds = min(_seconds(work) for _ in range(ROUNDS))
    return Row(f"{what}, pages/s", f"{1 / seconds:.0f}", "–", f"{seconds * 1000:.2f} ms", "report")


def _seconds(work: Callable[[], object]) -> float:
    """Return CPU seconds of one call, over about a fifth of a second."""
    calls, begun = 0, time.process_time()
    while (taken := time.process_time() - begun) < SECONDS:
        work()
        calls += 1
    return taken / calls
