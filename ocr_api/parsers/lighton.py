"""The notation of LightOnOCR-2: markdown with numbered pictures, and in some weights their boxes.

    ![image](image_1.png) 120,300,480,700

All weights write the placeholder; only the ``bbox`` ones write the box after it, in thousandths
of the page (model card of LightOnOCR-2-1B-bbox).
"""

from __future__ import annotations

import re

from ocr_api.markup.notation import (
    MAX_REGIONS,
    Places,
    places_unknown,
    replaced,
    without_cut_end,
    without_end_tokens,
)
from ocr_api.parsers import Parser
from ocr_api.result import Block, Box, Parsed, Reading, mark, plain

SCALE = 1000
THINNEST = 2 / SCALE
"""Boxes thinner than this hold nothing that can be seen."""

_PICTURE = re.compile(
    r"!\[[^\[\]\n]{0,300}\]\(image_\d{1,6}\.(?:png|jpe?g)\)"
    # On the same line, and not the start of a longer number or of a word.
    r"(?:[ \t]*(\d{1,6})[ \t]*,[ \t]*(\d{1,6})[ \t]*,[ \t]*(\d{1,6})[ \t]*,[ \t]*(\d{1,6})"
    r"(?!\w|[.,]\d))?"
)
# Coordinates that the answer's end cut off: fewer than four numbers right after a placeholder.
_CUT_BOX = re.compile(r"(\(image_\d{1,6}\.(?:png|jpe?g)\))[ \t]*\d{1,4}(?:,[ \t]*\d{0,4}){0,3}\Z")
_WHOLE_BOX = re.compile(r"\)[ \t]*\d+[ \t]*,[ \t]*\d+[ \t]*,[ \t]*\d+[ \t]*,[ \t]*\d+\Z")


class Lighton(Parser):
    """Understands placeholders of pictures, with boxes and without."""

    def parse(self, reading: Reading, pictures: tuple[Box, ...]) -> Parsed:
        """Return markdown with a mark for each picture.

        One placeholder with a box is enough: then all regions come from the notation, and the
        given pictures are not used. Else placeholders and given pictures meet in order.
        Placeholders without a picture are removed, with a warning.
        """
        text = _without_cut_box(without_end_tokens(plain(reading.text)))
        text = without_cut_end(text, reading)
        if any(found[1] for found in _PICTURE.finditer(text)):
            return _located(text)
        places = Places(pictures)
        markdown = replaced(text, _PICTURE, lambda _: places.take())
        return Parsed(places.finish(markdown), warnings=places.warnings())


def _located(text: str) -> Parsed:
    """Return a page on which at least one placeholder has a box."""
    regions: dict[Box, int] = {}
    unknown = 0

    def render(found: re.Match[str]) -> str:
        nonlocal unknown
        if found[1] is None:
            unknown += 1
            return ""
        box = Box.of(*(int(found[number]) / SCALE for number in range(1, 5)))
        thin = box.right - box.left < THINNEST or box.bottom - box.top < THINNEST
        if thin or box in regions or len(regions) >= MAX_REGIONS:
            return ""
        return mark(regions.setdefault(box, len(regions)))

    markdown = replaced(text, _PICTURE, render)
    return Parsed(
        markdown,
        blocks=tuple(Block("image", box, region=number) for box, number in regions.items()),
        regions=tuple(regions),
        warnings=places_unknown(unknown),
    )


def _without_cut_box(text: str) -> str:
    """Return the text without part of a box at its end; its placeholder stays."""
    start = text.rfind("](image_")
    if start < 0 or _WHOLE_BOX.search(text, start):
        return text
    cut = _CUT_BOX.search(text, start)
    return text[: cut.end(1)] if cut else text
