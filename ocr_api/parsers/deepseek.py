"""The grounding notation of DeepSeek-OCR: a label, its boxes, and then what stands there.

    <|ref|>title<|/ref|><|det|>[[330, 198, 558, 230]]<|/det|>
    # R&D Spending

Boxes are integers from 0 to 999 of the whole page (``v / 999``), as the authors' scripts
(``run_dpsk_ocr_pdf.py``) read them. Those scripts evaluate the boxes as Python; here they are
searched for numbers. Two more forms are understood. Asked to ``OCR this image``, the model puts
the text itself between the ``ref`` tags and nothing after them. A server that removes special
tokens leaves ``title[[330, 198, 558, 230]]`` at the start of a line.

Why a table's text may stand under its caption: the model often writes the tag of the table (or
picture), at once the tag of its caption, and then caption and table together.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from ocr_api.markup.notation import (
    MAX_REGIONS,
    few_blank_lines,
    with_marks,
    without_cut_end,
    without_end_tokens,
)
from ocr_api.parsers import Parser
from ocr_api.result import Block, Box, Parsed, Reading, mark, plain

SCALE = 999
THINNEST = 2 / SCALE
"""Boxes thinner than this hold nothing that can be read or seen."""
MAX_BOXES = 64
"""Boxes of one tag; more come only from a loop."""

KINDS = {
    "text": "text",
    "paragraph": "text",
    "footnote": "text",
    "title": "title",
    "sub_title": "title",
    "subtitle": "title",
    "section_title": "title",
    "list": "list",
    "list_item": "list",
    "table": "table",
    "image": "image",
    "figure": "image",
    "picture": "image",
    "chart": "image",
    "equation": "equation",
    "formula": "equation",
    "interline_equation": "equation",
    "caption": "caption",
    "code": "code",
    "algorithm": "code",
    "reference": "references",
    "references": "references",
    "aside_text": "aside_text",
    "header": "header",
    "page_header": "header",
    "footer": "footer",
    "page_footer": "footer",
    "page_number": "footer",
    "signature": "signature",
}
"""Labels seen in answers and their Mistral block types; ``..._caption`` is a caption."""

_TOKENS = ("<|ref|>", "<|/ref|>", "<|det|>", "<|/det|>", "<|grounding|>")
_SPLIT = re.compile(r"(<\|/?(?:ref|det)\|>)")
# The tokenizer's own control tokens stand between fullwidth bars (U+FF5C): end of sentence.
_CONTROL = re.compile(r"<\uff5c[^\uff5c<>\n]{1,40}\uff5c>|<\|grounding\|>|<\|end_of_sentence\|>")
_CUT_CONTROL = re.compile(r"<\uff5c[^\uff5c<>\n]{0,40}\uff5c?\Z")
# What is left of the tags where a server removed the special tokens. No line breaks inside: a
# list that could run over lines would be searched again from each of them.
_DEBRIS = re.compile(r"^[ \t]*([a-z_]{2,30})[ \t]*(\[\[[-0-9,. \t\[\]]*\]\])[ \t]*", re.MULTILINE)
_CUT_DEBRIS = re.compile(r"[ \t]*([a-z_]{2,30})[ \t]*\[[-0-9,. \t\[]*\]?\Z")
_BOXES = re.compile(r"[-0-9,.\s\[\]]*")
_NUMBER = re.compile(r"(-?[0-9]{1,9})[0-9]*(?:\.[0-9]*)?")
_LABELLED = re.compile(r"\s*([A-Za-z_]{2,30})\s*(\[.*)", re.DOTALL)
_CENTER = re.compile(r"</?center>")


@dataclass(slots=True)
class _Item:
    """One tag and the text after it; ``label`` is None for text before any tag."""

    label: str | None
    boxes: tuple[Box, ...] = ()
    body: str = ""
    closed: bool = False
    """The label was closed; False where the answer ended inside it."""
    pieces: list[str] = field(default_factory=list)
    """What ``body`` is made of."""

    @property
    def kind(self) -> str | None:
        """Return the block type of the label; None where it is no label of ours."""
        return _kind(self.label or "")


@dataclass(slots=True)
class _Page:
    """What is collected while the items are walked."""

    parts: list[str] = field(default_factory=list)
    """Markdown, to be joined; each part brings the break before it."""
    blocks: list[Block] = field(default_factory=list)
    regions: dict[Box, int] = field(default_factory=dict)
    margins: dict[str, list[str]] = field(default_factory=dict)
    in_lines: bool = False
    """The last piece was one line of the page, and the next one may follow it."""

    def write(self, text: str, *, line: bool = False) -> None:
        """Add a paragraph of markdown, or one line of a paragraph."""
        between = "\n" if line and self.in_lines else "\n\n"
        self.parts.append(between + text if self.parts else text)
        self.in_lines = line


class Deepseek(Parser):
    """Understands tags with boxes; text without tags is taken as it is."""

    def parse(self, reading: Reading, pictures: tuple[Box, ...]) -> Parsed:
        """Return markdown, blocks, regions, and the page's running header and footer.

        Regions come from the notation as soon as it names one layout label; else the given
        pictures stand after the text.
        """
        text = without_end_tokens(_CUT_CONTROL.sub("", _CONTROL.sub("", plain(reading.text))))
        items = _items(without_cut_end(text, reading, _TOKENS))
        page = _Page()
        for item in items:
            _add(item, page)
        markdown = few_blank_lines("".join(page.parts)).strip()
        labelled = any(item.kind and item.boxes for item in items)
        return Parsed(
            markdown=markdown if labelled else with_marks(markdown, range(len(pictures))),
            blocks=tuple(page.blocks),
            regions=tuple(page.regions) if labelled else None,
            header="\n".join(page.margins.get("header", ())) or None,
            footer="\n".join(page.margins.get("footer", ())) or None,
        )


def _items(text: str) -> list[_Item]:
    """Return the tags of the page in order, each with its text."""
    found = list(_tagged(text))
    if len(found) == 1 and found[0].label is None:
        found = list(_debris(text)) or found
    for item in found:
        item.body = _clean("".join(item.pieces))
    _drop_cut_label(found)
    return list(_parted(found))


def _tagged(text: str) -> Iterator[_Item]:
    """Yield an item per tag; a stray or unclosed tag gives what can be understood of it."""
    pieces = _SPLIT.split(text)
    item = _Item(None, pieces=[pieces[0]])
    for tag, piece in zip(pieces[1::2], pieces[2::2], strict=True):
        if tag == "<|ref|>":
            yield item
            item = _Item(piece.strip())
        elif tag == "<|det|>":
            label, where, rest = _inside(piece)
            if label and (item.label is None or item.boxes):
                yield item
                item = _Item(label)
            item.closed = True
            item.boxes = item.boxes or _boxes(where)
            item.pieces.append(rest)
        else:
            item.closed = item.closed or tag == "<|/ref|>"
            item.pieces.append(piece)
    yield item


def _inside(piece: str) -> tuple[str, str, str]:
    """Return label, boxes and text of what stands after ``<|det|>``.

    Only boxes are expected. A label before them is the form of a sister model
    (``<|det|>title [68, 69, 385, 100]<|/det|>``), text after them a tag that was not closed.
    """
    found = _LABELLED.match(piece)
    label = found[1] if found else ""
    where = found[2] if found else piece
    if "]]" in where:
        where, _, rest = where.partition("]]")
        return label, where + "]", rest
    if _BOXES.fullmatch(where):
        # The answer may end inside a number; only what a bracket closes is whole.
        return label, where[: where.rfind("]") + 1], ""
    return "", "", piece


def _debris(text: str) -> Iterator[_Item]:
    """Yield the items of a page whose tags a server removed; none for any other page."""
    found = [tag for tag in _DEBRIS.finditer(text) if _kind(tag[1])]
    start = found[0].start() if found else text.rfind("\n") + 1
    cut = _CUT_DEBRIS.match(text, text.rfind("\n") + 1)
    if text[:start].strip() or not (found or (cut and _kind(cut[1]))):
        return
    ends = [tag.start() for tag in found[1:]] + [cut.start() if cut else len(text)]
    for tag, end in zip(found, ends, strict=False):
        yield _Item(tag[1], _boxes(tag[2]), closed=True, pieces=[text[tag.end() : end]])
    if not found:
        yield _Item(None)


def _drop_cut_label(items: list[_Item]) -> None:
    """Take away the last label where the answer ended inside it."""
    last = items[-1]
    if last.label is None or last.closed:
        return
    if any(label.startswith(last.label.lower()) for label in KINDS):
        items.pop()


def _parted(items: list[_Item]) -> Iterator[_Item]:
    """Yield the items, with a table that stands under its caption put under its own tag."""
    table: _Item | None = None
    for item in items:
        if table is not None:
            at = item.body.find("<table") if item.kind == "caption" else -1
            if at >= 0:
                table.body, item.body = item.body[at:], item.body[:at].rstrip()
                yield item
            yield table
            if at >= 0:
                table = None
                continue
        table = item if item.kind == "table" and not item.body else None
        if table is None:
            yield item
    if table is not None:
        yield table


def _add(item: _Item, page: _Page) -> None:
    """Add what an item says to the page."""
    kind = item.kind
    if kind == "image":
        _add_pictures(item, page)
        return
    # Without text after it, a label that we do not know is the text itself: one line.
    line = kind is None and not item.body
    text = (item.label or "") if line else item.body
    if kind == "caption":
        text = _CENTER.sub("", text).strip()
    if not text:
        return
    if kind in ("header", "footer"):
        page.margins.setdefault(kind, []).append(text)
    else:
        page.write(text, line=line)
    if item.boxes:
        page.blocks.append(Block(kind or "text", _union(item.boxes), text))


def _add_pictures(item: _Item, page: _Page) -> None:
    """Add a region, a mark and a block for each box; text inside the picture follows them."""
    for box in item.boxes:
        if box in page.regions or len(page.regions) >= MAX_REGIONS:
            continue
        number = page.regions[box] = len(page.regions)
        page.write(mark(number))
        page.blocks.append(Block("image", box, region=number))
    if item.body:
        page.write(item.body)
        if item.boxes:
            page.blocks.append(Block("text", _union(item.boxes), item.body))


def _kind(label: str) -> str | None:
    name = label.lower()
    return "caption" if name.endswith("_caption") else KINDS.get(name)


def _boxes(text: str) -> tuple[Box, ...]:
    """Return the boxes of a list such as ``[[1, 2, 3, 4], [5, 6, 7, 8]]``, thin ones left out."""
    numbers = [int(found[1]) / SCALE for found in _NUMBER.finditer(text[: 40 * MAX_BOXES])]
    groups = zip(*[iter(numbers)] * 4, strict=False)
    boxes = [Box.of(*group) for group in groups]
    return tuple(
        box
        for box in boxes[:MAX_BOXES]
        if box.right - box.left >= THINNEST and box.bottom - box.top >= THINNEST
    )


def _union(boxes: tuple[Box, ...]) -> Box:
    return Box(
        min(box.left for box in boxes),
        min(box.top for box in boxes),
        max(box.right for box in boxes),
        max(box.bottom for box in boxes),
    )


def _clean(text: str) -> str:
    """Return the text as the authors' scripts clean it, without the spaces around it."""
    text = text.replace("\\coloneqq", ":=").replace("\\eqqcolon", "=:")
    return few_blank_lines(text).strip()
