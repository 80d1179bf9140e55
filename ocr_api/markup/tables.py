"""Tables leave the markdown and become HTML or pipe tables of their own.

Models write tables in either form, whatever was asked. The tags are searched with patterns that
need time in proportion to the text. Why not ``html.parser``: on some hostile input it needs
quadratic time before Python 3.13.6 (CVE-2025-6069), and a table's grammar is small.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from ocr_api.markup.notation import code_spans
from ocr_api.result import Table, table_mark

MAX_SPAN = 1000
"""The most columns that HTML lets one cell span (HTML standard, 4.9.11)."""
MAX_CELLS = 100_000
"""More cells than this and spans are not spread, nor short rows filled."""

_TABLE_TAG = re.compile(r"<(/?)table(?=[\s>/])[^<>]*>", re.IGNORECASE)
_TAG = re.compile(r"<(/?)([A-Za-z][A-Za-z0-9]*+)([^<>]*+)>|<![^<>]*+>")
_SPAN = re.compile(r"(row|col)span\s{0,9}=\s{0,9}[\"']?\s{0,9}([0-9]{1,6})", re.IGNORECASE)
_KEPT = frozenset(("sub", "sup"))
"""Tags inside cells that a pipe table keeps, since the text means something else without them."""
_KEPT_IN_PIPES = re.compile(r"(<br\s{0,9}/?>|</?su[bp]>)", re.IGNORECASE)
_LIKE_A_TAG = re.compile(r"<(?=[A-Za-z/!?])")
_ENTITY = re.compile(r"&#?[A-Za-z0-9]{1,40};")
_PRIVATE = re.compile("[\ue000-\ue003]")
# Stand for the angles of a kept tag while its cell is read; removed from the source before.
_ANGLES = str.maketrans("\ue002\ue003", "<>")
_PIPE = re.compile(r"(?<!\\)\|")
_RULE = re.compile(r":?-+:?")


@dataclass(slots=True)
class _Cell:
    text: str = ""
    rows: int = 1
    columns: int = 1


@dataclass(slots=True)
class _Reader:
    """Reads the tags of one table into rows of cells."""

    rows: list[list[_Cell]] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    """Text in no cell: captions, and what a model forgot to wrap."""
    pieces: list[str] | None = None
    """Text of the open cell; None between cells."""
    depth: int = 0

    def text(self, text: str) -> None:
        """Take text between two tags."""
        (self.outside if self.pieces is None else self.pieces).append(text)

    def tag(self, closing: bool, name: str, attributes: str) -> None:
        """Take one tag; those of a table inside a cell only part its words."""
        if name == "table":
            self.depth += -1 if closing else 1
        if self.depth > 1 or (name == "table" and self.depth == 1 and closing):
            self.text(" ")
        elif name in ("td", "th", "tr", "table", "caption"):
            self._close()
            if name == "tr" and not closing:
                self.rows.append([])
            elif name in ("td", "th") and not closing:
                self._open(attributes)
        elif name in _KEPT:
            self.text(f"\ue002{'/' if closing else ''}{name}\ue003")
        elif name in ("br", "p", "div", "li"):
            self.text("\n")

    def _open(self, attributes: str) -> None:
        if not self.rows:
            self.rows.append([])
        spans = {found[1].lower(): int(found[2]) for found in _SPAN.finditer(attributes)}
        rows, columns = (max(1, spans.get(name, 1)) for name in ("row", "col"))
        self.rows[-1].append(_Cell("", rows, min(columns, MAX_SPAN)))
        self.pieces = []

    def _close(self) -> None:
        if self.pieces is not None:
            self.rows[-1][-1].text = _visible("".join(self.pieces))
        self.pieces = None

    def done(self) -> tuple[list[list[_Cell]], str]:
        """Return the rows that hold a cell, and the text in no cell."""
        self._close()
        return [row for row in self.rows if row], _visible("".join(self.outside))


def lift_tables(
    markdown: str, wanted: Literal["markdown", "html"]
) -> tuple[str, tuple[Table, ...]]:
    """Return the markdown with a mark in each table's place, and the tables.

    Tables are HTML ones, also nested or cut off at the end of the text, and pipe tables, both
    outside code blocks. A table that has the wanted format keeps its content as it is. A pipe
    table cannot hold everything: what spans rows is repeated in each; what spans columns is
    repeated in the first row, the headings, and stands once in the others. A table without a
    cell vanishes. Marks of pictures stay in the content. Never raises.
    """
    tables: list[Table] = []
    parts: list[str] = []
    end = 0
    for start, stop, is_html in _found(markdown):
        parts.append(markdown[end:start])
        content, rest = _content(markdown[start:stop], is_html=is_html, wanted=wanted)
        if content:
            parts.append(table_mark(len(tables)))
            tables.append(Table(content, wanted))
        parts.append(rest)
        end = stop
    if not parts:
        return markdown, ()
    parts.append(markdown[end:])
    return "\n\n".join(part.strip("\n") for part in parts if part.strip()), tuple(tables)


def _found(markdown: str) -> Iterator[tuple[int, int, bool]]:
    """Yield start, end and form (True: HTML) of each table, in order."""
    at = 0
    for start, stop in [*code_spans(markdown), (len(markdown), len(markdown))]:
        before = at
        for opened, closed in _html_tables(markdown, at, start):
            yield from _pipe_tables(markdown, before, opened)
            yield opened, closed, True
            before = closed
        yield from _pipe_tables(markdown, before, start)
        at = stop


def _html_tables(text: str, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Yield start and end of the outermost HTML tables between two places of the text."""
    depth, opened = 0, start
    for tag in _TABLE_TAG.finditer(text, start, stop):
        if tag[1]:
            if depth == 1:
                yield opened, tag.end()
            depth = max(0, depth - 1)
        else:
            if depth == 0:
                opened = tag.start()
            depth += 1
    if depth:
        yield opened, _end_of_cut(text, opened, stop)


def _end_of_cut(text: str, opened: int, stop: int) -> int:
    """Return where a table without an end ends: at the first blank line after its last tag."""
    last = text.rfind(">", opened, stop)
    blank = text.find("\n\n", last, stop)
    return stop if blank < 0 else blank


def _pipe_tables(text: str, start: int, stop: int) -> Iterator[tuple[int, int, bool]]:
    """Yield start, end and False for each pipe table between two places of the text."""
    heading: tuple[int, int] | None = None
    opened = None
    at = start
    while at < stop:
        end = text.find("\n", at, stop)
        end = stop if end < 0 else end
        line = text[at:end]
        if opened is not None and "|" not in line:
            yield opened, at, False
            opened = None
        if opened is None:
            width = _columns(line)
            if heading is not None and _is_rule(line) and width == heading[1]:
                opened = heading[0]
            heading = (at, width) if width else None
        at = end + 1
    if opened is not None:
        yield opened, stop, False


def _columns(line: str) -> int:
    """Return the number of cells of a line of a pipe table; 0 where it cannot be one."""
    line = line.strip()
    return len(_cells(line)) if "|" in line and not line.startswith(">") else 0


def _is_rule(line: str) -> bool:
    return all(_RULE.fullmatch(cell) for cell in _cells(line))


def _cells(line: str) -> list[str]:
    """Return the cells of a line of a pipe table, without the spaces around them."""
    line = line.strip().removeprefix("|")
    if line.endswith("|") and not line.endswith("\\|"):
        line = line[:-1]
    return [cell.strip() for cell in _PIPE.split(line)]


def _content(source: str, *, is_html: bool, wanted: Literal["markdown", "html"]) -> tuple[str, str]:
    """Return a table in the wanted format, and what stays behind of one without a cell."""
    if not is_html:
        return (source.strip("\n") if wanted == "markdown" else _html_of(source)), ""
    rows, outside = _read(source)
    if not rows:
        return "", outside
    if wanted == "markdown":
        return f"{outside}\n\n{_pipes_of(rows)}".lstrip("\n"), ""
    closing = [bool(tag[1]) for tag in _TABLE_TAG.finditer(source)]
    return source.strip() + "</table>" * (len(closing) - 2 * sum(closing)), ""


def _read(source: str) -> tuple[list[list[_Cell]], str]:
    """Return the rows of an HTML table, and its text in no cell."""
    reader = _Reader()
    source = source.translate({0xE002: None, 0xE003: None, 0x0A: " "})
    at = 0
    for tag in _TAG.finditer(source):
        reader.text(source[at : tag.start()])
        if tag[2]:
            reader.tag(bool(tag[1]), tag[2].lower(), tag[3])
        at = tag.end()
    reader.text(source[at:])
    return reader.done()


def _visible(text: str) -> str:
    """Return the text of a cell as a reader sees it; line breaks that were asked for stay."""
    lines = [" ".join(line.split()) for line in _unescaped(text).split("\n")]
    return "\n".join(line for line in lines if line)


def _unescaped(text: str) -> str:
    """Return the text with the characters that entities stand for, but none that make a mark."""
    return _ENTITY.sub(lambda found: _PRIVATE.sub("", html.unescape(found[0])), text)


def _pipes_of(rows: list[list[_Cell]]) -> str:
    """Return a pipe table; its first row is the heading, which every pipe table has."""
    grid = _spread(rows)
    width = max(len(row) for row in grid)
    grid[0] += [""] * (width - len(grid[0]))
    if width * len(grid) <= MAX_CELLS:
        grid = [row + [""] * (width - len(row)) for row in grid]
    lines = [f"| {' | '.join(map(_piped, row))} |" for row in grid]
    lines.insert(1, f"| {' | '.join(['---'] * width)} |")
    return "\n".join(lines)


def _spread(rows: list[list[_Cell]]) -> list[list[str]]:
    """Return the texts of all cells, spans filled in where that gives a sane number of cells."""
    hanging: dict[int, tuple[int, str]] = {}
    grid: list[list[str]] = []
    count = 0
    for row in rows:
        line: list[str] = []
        for cell in row:
            _hang(line, hanging)
            for column in range(cell.columns):
                text = cell.text if not grid or column == 0 else ""
                if cell.rows > 1:
                    hanging[len(line)] = (cell.rows - 1, text)
                line.append(text)
            if count + len(line) > MAX_CELLS:
                return [[cell.text for cell in row] for row in rows]
        _hang(line, hanging)
        grid.append(line)
        count += len(line)
    return grid


def _hang(line: list[str], hanging: dict[int, tuple[int, str]]) -> None:
    """Add the cells that hang down from the rows above into the next columns of a row."""
    while (column := len(line)) in hanging:
        left, text = hanging.pop(column)
        if left > 1:
            hanging[column] = (left - 1, text)
        line.append(text)


def _piped(text: str) -> str:
    """Return the text of a cell for a pipe table."""
    text = _ENTITY.sub(lambda found: f"&amp;{found[0][1:]}", text)
    text = _LIKE_A_TAG.sub("&lt;", text).translate(_ANGLES)
    return text.replace("|", "\\|").replace("\n", "<br>")


def _html_of(source: str) -> str:
    """Return a pipe table as HTML."""
    lines = source.strip("\n").split("\n")
    rows = [_cells(line) for number, line in enumerate(lines) if number != 1]
    if len(rows[0]) * len(rows) <= MAX_CELLS:
        rows = [row + [""] * (len(rows[0]) - len(row)) for row in rows]
    heading, *body = [_row(row, "td" if number else "th") for number, row in enumerate(rows)]
    inside = f"<thead>\n{heading}\n</thead>"
    if body:
        inside += "\n<tbody>\n" + "\n".join(body) + "\n</tbody>"
    return f"<table>\n{inside}\n</table>"


def _row(cells: list[str], tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}>{_escaped(cell)}</{tag}>" for cell in cells) + "</tr>"


def _escaped(cell: str) -> str:
    """Return a cell of a pipe table as HTML; line breaks and raised text stay what they are."""
    pieces = _KEPT_IN_PIPES.split(cell.replace("\\|", "|"))
    return "".join(
        piece if number % 2 else html.escape(_unescaped(piece), quote=False)
        for number, piece in enumerate(pieces)
    )
