"""The side-by-side report: one HTML file that needs no network and runs no script.

What stands in documents, file names and answers is hostile; all of it goes through `escaped`. The
pages are written to a temporary file one by one, since their pictures are large, and the table
that comes before them is known when the last one was read.
"""

from __future__ import annotations

import heapq
import os
import shutil
from base64 import b64encode
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import BinaryIO

from ocr_api.compare.differences import Change, Difference
from ocr_api.compare.figures import Cell, Figures
from ocr_api.compare.reading import Attempt, Reading
from ocr_api.compare.style import CSS
from ocr_api.pages import DrawnPage
from ocr_api.result import Usage

CSP = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'"
MOST_DIFFERENT, MOST_FAILURES = 10, 50
"""How many links to pages the report begins with."""
NOTES = """\
Pages are counted from 0. Seconds are wall-clock time of drawing, waiting for the model and \
reading; the models read one after the other, the pages of a file side by side.
Similarity is the share of words that a model has in common with the first one, in the same order; \
white space does not count. It does not say which of the two is right. Where texts are too \
different, whole lines are marked, and the share, of words in any order, is “at most”.
Tokens are those of the answers that pages are made of; wasted ones belong to answers that were \
thrown away. An engine without tokens counts none.""".splitlines()
_NONE = "\N{EN DASH}"
"""Stands where there is no number."""


def escaped(text: str) -> str:
    """Return text that a browser shows as it is, in an element or an attribute.

    HTML has no NUL, and parsers turn a bare carriage return into a line feed (HTML, 13.2.3.5).
    """
    sound = text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
    return escape(sound).replace("\r", "&#13;")


def shown(path: Path) -> str:
    """Return a path as text; what is no UTF-8 becomes replacement characters."""
    return os.fsencode(path).decode("utf-8", "replace")


class HtmlReport:
    """Takes pages one by one; knows the whole when the last one came."""

    def __init__(self, models: Sequence[str], spool: BinaryIO) -> None:
        """Take an empty file for the pages until `finish`."""
        self._models = models
        self._spool = spool
        self._files = 0
        self._failures: list[str] = []
        self._more_failures = 0
        self._different: list[tuple[float, int, str]] = []
        """A heap of the most different pages: the less similar, then the earlier, is greater."""
        self._seen = 0

    def add_file(self, reading: Reading) -> None:
        """Begin a file; its pages come next."""
        name = escaped(shown(reading.path))
        if self._files:
            self._write("</section>\n")
        self._files += 1
        self._write(f'<section class="file" id="f{self._files}">\n<h2>{name}</h2>\n')
        for attempt in reading.attempts:
            self._write(_of_the_file(attempt))
            if attempt.error is not None:
                self._fail(f"f{self._files}", name, attempt.model)

    def add_page(
        self, reading: Reading, index: int, cells: Sequence[Cell], drawn: DrawnPage | str
    ) -> None:
        """Write a page; ``drawn`` is its picture, or a sentence that says why there is none."""
        name, anchor = escaped(shown(reading.path)), f"f{self._files}p{index}"
        label = f"{name}, page {index}"
        for number, cell in enumerate(cells):
            if cell.page is not None and cell.error is not None:
                self._fail(anchor, label, cell.attempt.model)
            if cell.difference is not None:
                self._note(cell.difference.similarity, number, anchor, label)
        self._write(
            f'<article class="page" id="{anchor}">\n<h3>Page {index}</h3>\n<div class="side">\n'
            f"<figure>{_picture(drawn, label)}</figure>\n"
            f'<div class="models">\n{"".join(_column(cell, self._models[0]) for cell in cells)}'
            "</div>\n</div>\n</article>\n"
        )

    def finish(self, totals: Sequence[Figures], out: BinaryIO) -> None:
        """Write the whole report."""
        if self._files:
            self._write("</section>\n")
        names = ", ".join(escaped(model) for model in self._models)
        made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
        head = (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{escape(CSP)}">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            '<meta name="referrer" content="no-referrer">\n'
            f"<title>Recto compare: {names}</title>\n<style>{CSS}</style>\n</head>\n"
            f'<body style="--models: {len(self._models)}">\n'
            f'<header>\n<h1>Comparison of {names}</h1>\n<p class="faint">Made {made} by '
            "<code>recto compare</code>.</p>\n</header>\n<main>\n"
        )
        out.write((head + _summary(totals) + self._links()).encode())
        self._spool.seek(0)
        shutil.copyfileobj(self._spool, out)
        out.write(b"</main>\n</body>\n</html>\n")

    def _write(self, text: str) -> None:
        self._spool.write(text.encode())

    def _fail(self, anchor: str, label: str, model: str) -> None:
        if len(self._failures) < MOST_FAILURES:
            self._failures.append(f'<a href="#{anchor}">{label}</a> by {escaped(model)}')
        else:
            self._more_failures += 1

    def _note(self, similarity: float, number: int, anchor: str, label: str) -> None:
        if similarity == 1:
            return
        text = f'<a href="#{anchor}">{label}</a>, {escaped(self._models[number])}'
        text += f": {_percent(similarity)}"
        self._seen += 1
        item = (-similarity, -self._seen, text)
        if len(self._different) < MOST_DIFFERENT:
            heapq.heappush(self._different, item)
        else:
            heapq.heappushpop(self._different, item)

    def _links(self) -> str:
        parts = []
        if self._failures:
            items = self._failures + (
                [f"{self._more_failures} more"] if self._more_failures else []
            )
            parts.append(f"<h2>Not read</h2>\n{_list(items, 'ul', 'links')}")
        if self._different:
            items = [text for _, _, text in sorted(self._different, reverse=True)]
            parts.append(f"<h2>Most different pages</h2>\n{_list(items, 'ol', 'links')}")
        return "".join(f"<section>\n{part}</section>\n" for part in parts)


def _list(items: Iterable[str], kind: str, style: str) -> str:
    inside = "".join(f"<li>{item}</li>\n" for item in items)
    return f'<{kind} class="{style}">\n{inside}</{kind}>\n'


def _summary(figures: Sequence[Figures]) -> str:
    heads = (
        "Pages read", "Failed", "Similarity, mean", "Seconds per page, median",
        "95 % of pages within, seconds", "Seconds in all", "Prompt tokens per page",
        "Completion tokens per page", "Wasted tokens per page",
    )  # fmt: skip
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    rows = "".join(_summary_row(one) for one in figures)
    notes = "".join(f'<p class="faint">{note}</p>\n' for note in NOTES)
    first = escaped(figures[0].model)
    return (
        '<section>\n<h2 id="summary">Summary</h2>\n<div class="scroll" tabindex="0" role="region" '
        'aria-labelledby="summary">\n<table>\n'
        f"<caption>The others are compared with {first}.</caption>\n"
        '<thead><tr><th scope="col">Model</th><th scope="col" class="word">Answered by</th>'
        f"{head}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table>\n</div>\n{notes}</section>\n"
    )


def _summary_row(one: Figures) -> str:
    wasted = one.wasted.prompt_tokens + one.wasted.completion_tokens
    values = (
        f"{one.pages:,}",
        _failed(one),
        _NONE if one.similarity is None else _percent(one.similarity),
        _number(one.within(0.5), 2),
        _number(one.within(0.95), 2),
        _number(one.total_seconds, 1),
        _number(one.per_page(one.usage.prompt_tokens), 0),
        _number(one.per_page(one.usage.completion_tokens), 0),
        _number(one.per_page(wasted), 0),
    )
    cells = "".join(f"<td>{value}</td>" for value in values)
    cards = escaped(", ".join(one.cards)) or _NONE
    name = f'<th scope="row">{escaped(one.model)}</th><td class="word">{cards}</td>'
    return f"<tr>{name}{cells}</tr>\n"


def _failed(one: Figures) -> str:
    counts = {"page": one.failed_pages, "file": one.failed_files}
    words = [f"{count:,} {name}{'s' * (count > 1)}" for name, count in counts.items() if count]
    return ", ".join(words) or "0"


def _number(value: float | None, digits: int) -> str:
    return _NONE if value is None else f"{value:,.{digits}f}"


def _percent(similarity: float) -> str:
    """Return a share in percent; 100 only where nothing differs."""
    share = similarity if similarity == 1 else min(similarity, 0.999)
    return f"{share * 100:.1f} %".replace("100.0", "100")


def _of_the_file(attempt: Attempt) -> str:
    """Return what one model says of the whole file, if anything."""
    model, text = escaped(attempt.model), ""
    if attempt.error is not None:
        text = f'<p class="bad">{model} could not read it: {escaped(attempt.error)}</p>\n'
    return text + "".join(
        f'<p class="faint">{model}: {escaped(warning)}</p>\n' for warning in attempt.warnings
    )


def _picture(drawn: DrawnPage | str, label: str) -> str:
    """Return the page's picture; ``label`` is escaped."""
    if isinstance(drawn, str):
        return f'<p class="bad">There is no picture: {escaped(drawn)}</p>'
    data = b64encode(drawn.jpeg).decode("ascii")
    size = f'width="{drawn.width}" height="{drawn.height}"'
    return (
        f'<img alt="{label}, as it was drawn" {size} decoding="async" '
        f'src="data:image/jpeg;base64,{data}">'
    )


def _column(cell: Cell, first: str) -> str:
    """Return what one model made of a page."""
    page = cell.page
    parts = [_header(cell)]
    if cell.error is not None:
        parts.append(f'<p class="bad">Not read: {escaped(cell.error)}</p>\n')
    if page is not None and page.warnings:
        parts.append(_list(map(escaped, page.warnings), "ul", "warnings"))
    if page is not None:
        parts.append(
            _texts(page.markdown, cell.difference, escaped(first), failed=bool(cell.error))
        )
    return f'<section class="model">\n{"".join(parts)}</section>\n'


def _header(cell: Cell) -> str:
    attempt, page = cell.attempt, cell.page
    facts = []
    if cell.difference is not None:
        most = "at most " if cell.difference.by_lines else ""
        facts.append(f"{most}{_percent(cell.difference.similarity)} similar")
    if page is not None:
        used, wasted = page.usage, page.wasted.prompt_tokens + page.wasted.completion_tokens
        facts.append(f"{page.seconds:.2f} s")
        tokens = f"{used.prompt_tokens:,} + {used.completion_tokens:,} tokens"
        facts += [tokens] if used != Usage() else []
        facts += [f"{wasted:,} wasted"] if wasted else []
    if attempt.card not in (None, attempt.model):
        facts.append(escaped(str(attempt.card)))
    items = _list(facts, "ul", "facts") if facts else ""
    return f"<header>\n<h4>{escaped(attempt.model)}</h4>\n{items}</header>\n"


def _texts(markdown: str, difference: Difference | None, first: str, *, failed: bool) -> str:
    """Return a page's text, with what differs marked; ``first`` is escaped."""
    alone = f'<div class="text" dir="auto" lang="">{escaped(markdown)}</div>\n'
    if difference is None or all(change.kind == "same" for change in difference.changes):
        about = f'<p class="about">The same words as {first}.</p>\n' if difference else ""
        if not markdown:
            return "" if failed else '<p class="about">No text.</p>\n'
        return about + alone
    lines = ", line by line" if difference.by_lines else ""
    marked = "".join(_marked(change) for change in difference.changes)
    return (
        f'<p class="about">Against {first}{lines}: <del>only there</del>, '
        "<ins>only here</ins>.</p>\n"
        f'<div class="text differences" dir="auto" lang="">{marked}</div>\n'
        f"<details>\n<summary>Text alone</summary>\n{alone}</details>\n"
    )


def _marked(change: Change) -> str:
    """Return a stretch of text, marked; the space behind what is new stands outside the mark."""
    if change.kind == "same":
        return escaped(change.text)
    if change.kind == "gone":
        return f"<del>{escaped(change.text)}</del>"
    text = change.text.rstrip() or change.text
    return f"<ins>{escaped(text)}</ins>{escaped(change.text[len(text) :])}"
