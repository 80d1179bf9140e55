"""The notations of readers that were made from Qwen-VL: olmOCR-2 and Nanonets-OCR2.

olmOCR-2 puts facts about the page before its markdown, and names pictures by their place in
pixels of a drawing whose size we do not know, so these meet the given pictures in order:

    ---
    primary_language: en
    is_rotation_valid: False
    rotation_correction: 90
    is_table: False
    is_diagram: False
    ---
    ![A chart](page_10_20_300_400.png)

``rotation_correction`` is the degrees clockwise that the page must be turned by to be upright
(the schema in ``olmocr/prompts/prompts.py``).

Nanonets-OCR2 wraps what is not running text in tags: ``<img>``, ``<watermark>``,
``<page_number>``, ``<signature>`` (its model card), and sometimes ``<header>`` and ``<footer>``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from ocr_api.markup.notation import (
    GONE,
    Places,
    replaced,
    without_cut_end,
    without_end_tokens,
    without_wrapper,
)
from ocr_api.parsers import Parser
from ocr_api.result import Box, Parsed, Reading, plain

_FACTS = ("primary_language", "is_rotation_valid", "rotation_correction", "is_table", "is_diagram")
_FACT = re.compile(r"([a-z_]{5,30}):[ \t]*([^\n]{0,80})")
# A bare file name: a picture that only the model knows. The alternative text stays in one line.
_PICTURE = re.compile(r"!\[([^\[\]\n]{0,2000})\]\([\w.\-]{0,200}\)")
_NAMES = "img|watermark|page_number|signature|header|footer"
_TAG = re.compile(rf"(</?(?:{_NAMES})/?>|<img\s[^<>]{{0,2000}}>)")
_TOKENS = tuple(f"<{close}{name}>" for name in _NAMES.split("|") for close in ("", "/"))
_CUT_IMG = re.compile(r"<img\s[^<>]{0,2000}\Z")
_SAYS_NOTHING = frozenset(("", "image", "img", "figure", "picture", "photo", "alt text"))
_OUT_OF_TEXT = ("watermark", "page_number", "header", "footer")
_MARGINS = {"page_number": "footer", "header": "header", "footer": "footer"}


@dataclass(slots=True)
class _Page:
    """What is collected while the tags are walked."""

    places: Places
    parts: list[str] = field(default_factory=list)
    margins: dict[str, list[str]] = field(default_factory=dict)


class Qwen(Parser):
    """Understands front matter, figure placeholders and tags."""

    def parse(self, reading: Reading, pictures: tuple[Box, ...]) -> Parsed:
        """Return markdown with a mark for each picture, header, footer, and the page's turn.

        What a model says of a picture is kept as text after its mark.
        """
        text = without_wrapper(without_end_tokens(plain(reading.text)))
        facts, text = _front_matter(text)
        text = without_cut_end(_CUT_IMG.sub("", text), reading, _TOKENS)
        page = _Page(Places(pictures))
        _walk(text, page)
        markdown = replaced("".join(page.parts), _PICTURE, lambda found: _figure(found, page))
        return Parsed(
            markdown=page.places.finish(markdown),
            header="\n".join(page.margins.get("header", ())) or None,
            footer="\n".join(page.margins.get("footer", ())) or None,
            turn=_turn(facts),
            warnings=page.places.warnings(),
        )


def _walk(text: str, page: _Page) -> None:
    """Fill the page from text with tags; a tag without its end reaches to the next blank line."""
    pieces = _TAG.split(text)
    words = _words(pieces)
    page.parts.append(pieces[0])
    at = 1
    while at < len(pieces):
        tag, after = pieces[at], pieces[at + 1]
        at += 2
        if at - 2 in words:
            page.parts += [tag, after]
            continue
        if tag.startswith("</"):
            page.parts.append(after)
        elif tag.endswith("/>") or tag.startswith("<img "):
            page.parts += [page.places.take() or GONE, after]
        elif at < len(pieces) and pieces[at] == f"</{tag[1:]}":
            _add(tag[1:-1], after, pieces[at + 1], page)
            at += 2
        else:
            inside, blank, rest = after.partition("\n\n")
            _add(tag[1:-1], inside, blank + rest, page)


def _words(pieces: list[str]) -> set[int]:
    """Return where tags stand that are words of the page, such as in a sentence about HTML.

    They stand within a line and are never closed. As tags they would take what follows them out
    of the text.
    """
    found: set[int] = set()
    nearest: dict[str, str] = {}  # the next tag of each name, seen from the end
    for at in range(len(pieces) - 2, 0, -2):
        tag, before = pieces[at], pieces[at - 1].rstrip(" \t")
        name = tag.strip("</>")
        closed = nearest.get(name, "").startswith("</")
        in_line = before and not before.endswith("\n")
        if name in _OUT_OF_TEXT and tag == f"<{name}>" and in_line and not closed:
            found.add(at)
        nearest[name] = tag
    return found


def _add(name: str, inside: str, after: str, page: _Page) -> None:
    """Add what stands in a tag of that name, and the text after it."""
    inside = inside.strip()
    if name == "img":
        before = next((part for part in reversed(page.parts) if part), "\n")
        page.parts.append(_described(page.places.take(), inside, before, after) or GONE)
    elif name == "signature":
        page.parts.append(inside or GONE)
    else:
        # Their places stay in the text, for the pictures that are met in order.
        page.parts.append("\n\n".join("![](x)" for _ in _PICTURE.finditer(inside)) or GONE)
        inside = _PICTURE.sub(lambda found: _said(found[1]), inside).strip()
        if inside and name in _MARGINS:
            page.margins.setdefault(_MARGINS[name], []).append(inside)
    page.parts.append(after)


def _figure(found: re.Match[str], page: _Page) -> str:
    """Return what stands for a picture with an alternative text."""
    before, after = found.string[: found.start()][-1:], found.string[found.end() :][:1]
    return _described(page.places.take(), _said(found[1]), before or "\n", after)


def _said(text: str) -> str:
    """Return an alternative text, or nothing where it says nothing."""
    text = text.strip()
    return "" if text.lower() in _SAYS_NOTHING else text


def _described(picture: str, text: str, before: str, after: str) -> str:
    """Return a picture's mark and what the model says of it, in a line where it stands in one."""
    alone = before.endswith("\n") and after[:1] in ("", "\n")
    return ("\n\n" if alone else " ").join(part for part in (picture, text) if part)


def _front_matter(text: str) -> tuple[dict[str, str], str]:
    """Return the facts before the page, and the page; facts that were cut off are no page."""
    lines = text.lstrip().split("\n")
    opened = lines[0].strip() == "---"
    at = 1 if opened else 0
    facts: dict[str, str] = {}
    while at < len(lines):
        found = _FACT.fullmatch(lines[at].strip())
        if found is None or found[1] not in _FACTS:
            break
        facts[found[1]] = found[2].strip("\"' ").lower()
        at += 1
    if not (facts or opened):
        return {}, text
    last = lines[at].strip() if at < len(lines) else ""
    cut = at == len(lines) - 1 and any(name.startswith(last) for name in (*_FACTS, "---"))
    if not (facts or cut):
        return {}, text
    return facts, "\n".join(lines[at + (cut or last == "---") :])


def _turn(facts: dict[str, str]) -> int:
    """Return the degrees clockwise that the model wants the page turned by."""
    if facts.get("is_rotation_valid") != "false":
        return 0
    return {"90": 90, "180": 180, "270": 270}.get(facts.get("rotation_correction", ""), 0)
