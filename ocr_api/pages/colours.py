"""Whether a page of a PDF has no colour, told by its objects. Runs in the child only.

Why not by its pixels: to compare them takes longer than a grey JPEG saves (2 of 13 ms, 2026). What
is not proved to be grey counts as colour, so that nothing coloured is ever lost.
"""

from __future__ import annotations

import ctypes
from typing import Any

from pypdfium2 import raw

_MOST = 200  # objects; looking at more of them (4 to 8 µs each) costs what a grey JPEG saves
_MOST_NOTES = 50
_PATTERN = 0xBF
"""Level of the grey that PDFium gives for a coloured pattern (`CPDF_ColorState::SetPattern`)."""
_GREY_SPACES = (raw.FPDF_COLORSPACE_DEVICEGRAY, raw.FPDF_COLORSPACE_CALGRAY)
_GREY_BITS = (1, 8)  # of an image with an ICC profile; three or four channels take more
_NO_TEXT = 2  # bytes of an empty UTF-16 string with its end


class Colours:
    """What was seen of a page's colours so far."""

    def __init__(self, page: Any) -> None:
        self._page = page
        self._left = _MOST
        self._named: set[int] = set()  # fonts that are no Type 3 fonts, by address
        self._levels = tuple(ctypes.c_uint() for _ in range(4))
        self._out = tuple(map(ctypes.byref, self._levels))
        self.none = raw.FPDFPage_CountObjects(page) <= _MOST and self._are_notes_unseen()
        """Nothing that has a colour, or that may have one, was seen."""

    def give_up(self) -> None:
        """Note that a part of the page will not be looked at."""
        self.none = False

    def look(self, thing: Any, kind: int) -> None:
        """Look at an object that is no form; the objects in a form are looked at by themselves."""
        if self.none:
            self._left -= 1
            self.none = self._left >= 0 and self._is_grey(thing, kind)

    def _is_grey(self, thing: Any, kind: int) -> bool:
        if kind == raw.FPDF_PAGEOBJ_TEXT:
            return self._is_text_grey(thing)
        if kind == raw.FPDF_PAGEOBJ_PATH:
            return self._is_filled_grey(thing) and self._is_stroked_grey(thing)
        return kind == raw.FPDF_PAGEOBJ_IMAGE and self._is_image_grey(thing)

    def _is_text_grey(self, thing: Any) -> bool:
        mode = raw.FPDFTextObj_GetTextRenderMode(thing)
        if mode == raw.FPDF_TEXTRENDERMODE_INVISIBLE:
            return True
        if not self._is_filled_grey(thing):
            return False
        if mode != raw.FPDF_TEXTRENDERMODE_FILL and not self._is_stroked_grey(thing):
            return False
        return self._has_plain_font(thing)

    def _has_plain_font(self, thing: Any) -> bool:
        """Return whether the glyphs take the text's colour; those of a Type 3 font have their own.

        PDFium does not tell the type; a Type 3 font is the one that has no name.
        """
        font = raw.FPDFTextObj_GetFont(thing)
        address = ctypes.cast(font, ctypes.c_void_p).value or 0
        if address not in self._named:
            if raw.FPDFFont_GetBaseFontName(font, None, 0) <= 1:  # its end counts as a byte
                return False
            self._named.add(address)
        return True

    def _is_filled_grey(self, thing: Any) -> bool:
        return bool(raw.FPDFPageObj_GetFillColor(thing, *self._out)) and self._is_level()

    def _is_stroked_grey(self, thing: Any) -> bool:
        return bool(raw.FPDFPageObj_GetStrokeColor(thing, *self._out)) and self._is_level()

    def _is_level(self) -> bool:
        red, green, blue = (level.value for level in self._levels[:3])
        return red == green == blue != _PATTERN

    def _is_image_grey(self, thing: Any) -> bool:
        facts = raw.FPDF_IMAGEOBJ_METADATA()
        if not raw.FPDFImageObj_GetImageMetadata(thing, self._page, facts):
            return False
        bits, space = facts.bits_per_pixel, facts.colorspace
        if space == raw.FPDF_COLORSPACE_UNKNOWN:  # a stencil is drawn in the colour of fills
            return bits == 1 and self._is_filled_grey(thing)
        return space in _GREY_SPACES or (
            space == raw.FPDF_COLORSPACE_ICCBASED and bits in _GREY_BITS
        )

    def _are_notes_unseen(self) -> bool:
        """Return whether all annotations are links that show nothing."""
        count = raw.FPDFPage_GetAnnotCount(self._page)
        return count <= _MOST_NOTES and all(map(self._is_note_unseen, range(count)))

    def _is_note_unseen(self, number: int) -> bool:
        note = raw.FPDFPage_GetAnnot(self._page, number)
        if not note:
            return False
        try:
            if raw.FPDFAnnot_GetSubtype(note) != raw.FPDF_ANNOT_LINK:
                return False
            shown = raw.FPDFAnnot_GetAP(note, raw.FPDF_ANNOT_APPEARANCEMODE_NORMAL, None, 0)
            return bool(shown <= _NO_TEXT)
        finally:
            raw.FPDFPage_CloseAnnot(note)
