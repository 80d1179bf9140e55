"""PDF pages by PDFium: open, count, draw, and where the pictures are. Runs in the child only.

Why the raw calls of pypdfium2: its helpers choose the size of the bitmap themselves, and walk the
objects of a page several times more slowly.
"""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, cast

import pypdfium2 as pdfium
from PIL import Image
from pypdfium2 import raw

from ocr_api.pages.colours import Colours
from ocr_api.pages.pictures import Sides, choose, covers
from ocr_api.pages.sizes import SizeLimits
from ocr_api.processes.child import Refusal

_SMALLEST = 8  # pixels of the short side, however narrow the page
_MOST_OBJECTS = 20_000
_MOST_IMAGES = 2_000
_DEEPEST_FORM = 3
_FINE = 1_000_000  # pixels of the imagined device on which boxes are measured
_SQUARE = 1.05  # pixels less oblong than this are square
_LETTER = (612.0, 792.0)
_MOST_DRAWN = 200
"""Pages after which a PDF is opened anew. PDFium keeps every object that it has parsed until the
document is closed (14 MB of 2,000 pages of print); opening those takes 1.5 ms."""
_PASSWORD_ERRORS = (raw.FPDF_ERR_PASSWORD, raw.FPDF_ERR_SECURITY)
_INVISIBLE = raw.FPDF_TEXTRENDERMODE_INVISIBLE

Matrix = tuple[float, float, float, float, float, float]


class Pdf:
    """An open PDF."""

    def __init__(self, path: str) -> None:
        """Open the file.

        Raises:
            Refusal: encrypted, damaged.
        """
        self.spent = False
        """It is not worth keeping open: PDFium holds what many pages left."""
        self._drawn = 0
        # Not by the helper: it takes a document without pages for one that cannot be opened, and
        # gives the cause of an older failure.
        opened = raw.FPDF_LoadDocument(os.fsencode(path) + b"\0", None)
        if not opened:
            secret = raw.FPDF_GetLastError() in _PASSWORD_ERRORS
            raise Refusal("encrypted" if secret else "damaged")
        self._pdf = pdfium.PdfDocument(opened)
        with suppress(pdfium.PdfiumError):  # a page without its form fields is better than none
            self._pdf.init_forms()

    def close(self) -> None:
        """Close the file."""
        self._pdf.close()

    def count(self) -> int:
        """Return the number of pages.

        Raises:
            Refusal: empty; PDFium opens a document without pages.
        """
        count = len(self._pdf)
        if count < 1:
            raise Refusal("empty")
        return count

    def draw(
        self, index: int, size: SizeLimits, *, grey: bool
    ) -> tuple[Image.Image, int, list[Sides]]:
        """Return the page as an image, its dpi, and the sides of its pictures.

        The image is grey where ``grey`` allows it and the page has no colour, else RGBX.

        Raises:
            Refusal: damaged, empty.
        """
        if not 0 <= index < self.count():
            raise Refusal("damaged")
        self._drawn += 1
        self.spent = self._drawn >= _MOST_DRAWN
        try:
            page = self._pdf.get_page(index)
        except pdfium.PdfiumError as error:
            raise Refusal("damaged") from error
        try:
            points = _points(page)
            found = _Contents(page, Colours(page) if grey else None)
            width, height = _pixels(points, size, found.density)
            image = self._paint(page, width, height)
        finally:
            page.close()
        if found.grey:
            # Not drawn as grey: PDFium would set the letters on whole pixels, and models see other
            # print than they do today.
            image = image.getchannel("G")
        dpi = max(1, round(72 * max(width, height) / max(points)))
        return image, dpi, choose(found.boxes, width, height)

    def _paint(self, page: Any, width: int, height: int) -> Image.Image:
        # 32 bits in the order in which Pillow itself holds RGB, so that nothing is copied; with
        # 24 bits Pillow copies (15 % of the time of a page of text).
        stride = width * 4
        buffer = (ctypes.c_ubyte * (stride * height))()
        bitmap = raw.FPDFBitmap_CreateEx(width, height, raw.FPDFBitmap_BGRx, buffer, stride)
        if not bitmap:
            raise MemoryError
        try:
            raw.FPDFBitmap_FillRect(bitmap, 0, 0, width, height, 0xFFFFFFFF)
            place = (bitmap, page, 0, 0, width, height, 0)
            flags = raw.FPDF_ANNOT | raw.FPDF_REVERSE_BYTE_ORDER
            raw.FPDF_RenderPageBitmap(*place, flags)
            if self._pdf.formenv:
                raw.FPDF_FFLDraw(self._pdf.formenv, *place, flags)
        finally:
            raw.FPDFBitmap_Destroy(bitmap)
        size, pixels = (width, height), cast("bytearray", buffer)
        return Image.frombuffer("RGBX", size, pixels, "raw", "RGBX", stride, 1)


def _points(page: Any) -> tuple[float, float]:
    """Return width and height of the page as it is shown, in points."""
    width, height = raw.FPDF_GetPageWidthF(page), raw.FPDF_GetPageHeightF(page)
    sound = math.isfinite(width) and math.isfinite(height) and width > 0 and height > 0
    return (width, height) if sound else _LETTER


def _pixels(
    points: tuple[float, float], size: SizeLimits, density: float | None
) -> tuple[int, int]:
    """Return the size to draw: as large as allowed, but no larger than a scan has pixels."""
    scale = size.edge / max(points)
    if size.dpi is not None:
        scale = min(scale, size.dpi / 72)
    if density is not None:
        scale = min(scale, density)
    scale = min(scale, math.sqrt(size.max_pixels / (points[0] * points[1])))
    width, height = (max(_SMALLEST, round(side * scale)) for side in points)
    # Rounding up, or the smallest side, may have passed the limit by a little.
    most = size.max_pixels
    if width * height > most:
        width, height = (width, most // width) if width < height else (most // height, height)
    return width, height


class _Contents:
    """What is on the page: boxes of images (fractions), and the density of a scan.

    ``density`` is pixels per point of the finest image, where one image (or several that touch)
    covers the page and nothing is drawn over it; else None. A text layer below the scan or
    invisible above it is not drawn over it; a page with a picture as its background and print on
    top is no scan, and is drawn as finely as any other. ``grey``: nothing has a colour.
    """

    def __init__(self, page: Any, colours: Colours | None) -> None:
        self.boxes: list[Sides] = []
        self._page = page
        self._colours = colours
        self._left = _MOST_OBJECTS
        self._over = False  # something was drawn after the image that covers the page
        self._finest = 0.0
        self._walk(page, raw.FPDFPage_CountObjects, raw.FPDFPage_GetObject, (), 0)
        covered = covers(self.boxes)
        self.density = self._finest if covered and not self._over and self._finest else None
        self.grey = colours is not None and colours.none

    def _walk(
        self, parent: Any, count: Any, get: Any, outer: tuple[Matrix, ...], depth: int
    ) -> None:
        for thing in self._things(parent, count, get):
            kind = raw.FPDFPageObj_GetType(thing)
            self._look(thing, kind, depth)
            if kind == raw.FPDF_PAGEOBJ_IMAGE:
                self._image(thing, outer)
            elif kind == raw.FPDF_PAGEOBJ_FORM:
                if depth < _DEEPEST_FORM:
                    inner = (_matrix(thing), *outer)
                    self._walk(
                        thing,
                        raw.FPDFFormObj_CountObjects,
                        raw.FPDFFormObj_GetObject,
                        inner,
                        depth + 1,
                    )
            elif not self._over:
                text = kind == raw.FPDF_PAGEOBJ_TEXT
                self._over = not text or raw.FPDFTextObj_GetTextRenderMode(thing) != _INVISIBLE

    def _look(self, thing: Any, kind: int, depth: int) -> None:
        if self._colours is None:
            return
        if kind != raw.FPDF_PAGEOBJ_FORM:
            self._colours.look(thing, kind)
        elif depth >= _DEEPEST_FORM:
            self._colours.give_up()

    def _things(self, parent: Any, count: Any, get: Any) -> Iterator[Any]:
        for number in range(count(parent)):
            self._left -= 1
            if self._left < 0:
                return
            yield get(parent, number)

    def _image(self, thing: Any, outer: tuple[Matrix, ...]) -> None:
        if len(self.boxes) >= _MOST_IMAGES:
            return
        matrix = _matrix(thing)
        for one in outer:
            matrix = _times(matrix, one)
        a, b, c, d, e, f = matrix
        if not all(map(math.isfinite, matrix)):
            return
        xs = sorted((e, e + a, e + c, e + a + c))
        ys = sorted((f, f + b, f + d, f + b + d))
        sides = self._sides(xs[0], ys[0], xs[-1], ys[-1])
        self.boxes.append(sides)
        if covers([sides]):
            self._over = False
        width, height = ctypes.c_uint(), ctypes.c_uint()
        across, up = math.hypot(a, b), math.hypot(c, d)
        if raw.FPDFImageObj_GetImagePixelSize(thing, width, height) and across > 0 and up > 0:
            low, high = sorted((width.value / across, height.value / up))
            # A fax has twice the dots across; a few per cent are a page size that was rounded.
            self._finest = max(self._finest, low if high < low * _SQUARE else high)

    def _sides(self, *corners: float) -> Sides:
        """Return corners in page space as left, top, right, bottom in fractions of the page."""
        found = []
        for x, y in (corners[:2], corners[2:]):
            across, down = ctypes.c_int(), ctypes.c_int()
            raw.FPDF_PageToDevice(self._page, 0, 0, _FINE, _FINE, 0, x, y, across, down)
            found.append((across.value / _FINE, down.value / _FINE))
        xs, ys = sorted(x for x, _ in found), sorted(y for _, y in found)
        cut = [min(max(side, 0.0), 1.0) for side in (xs[0], ys[0], xs[1], ys[1])]
        return cut[0], cut[1], cut[2], cut[3]


def _matrix(thing: Any) -> Matrix:
    found = raw.FS_MATRIX()
    if not raw.FPDFPageObj_GetMatrix(thing, found):
        return (1.0, 0.0, 0.0, 1.0, 0.0, 0.0)
    return found.a, found.b, found.c, found.d, found.e, found.f


def _times(inner: Matrix, outer: Matrix) -> Matrix:
    a, b, c, d, e, f = inner
    k, m, n, o, p, q = outer
    return (
        a * k + b * n,
        a * m + b * o,
        c * k + d * n,
        c * m + d * o,
        e * k + f * n + p,
        e * m + f * o + q,
    )
