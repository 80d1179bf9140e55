"""Pages: sizes, dpi, pictures, colours and errors, from documents made in code."""

from __future__ import annotations

import asyncio
import io
import os
import sys
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from PIL import Image

from files_api.kit.errors import (
    AppError,
    DocumentDamaged,
    DocumentEmpty,
    DocumentEncrypted,
    DocumentTooComplex,
    ImageTooLarge,
    Unavailable,
)
from model_registry.card import Render
from ocr_api import pages as pages_module
from ocr_api.pages import DrawnPage, Limits, Pages, drawing
from ocr_api.pages import pdf as pdf_module
from ocr_api.result import Box
from tests import samples

# One child for all tests: a start for each would take most of their time.
pytestmark = pytest.mark.asyncio(loop_scope="module")

PDF = "application/pdf"
LIMITS = Limits(memory_bytes=1 << 30, seconds=20)
SMALL = Render(edge=400)
RED, BLUE, GREEN = (220, 0, 0), (0, 0, 220), (0, 160, 0)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pages() -> AsyncIterator[Pages]:
    pages = Pages(1, LIMITS, max_pixels=4_000_000)
    yield pages
    await pages.close()


class Desk:
    """Puts bytes into a file, and draws it."""

    def __init__(self, pages: Pages, folder: Path) -> None:
        self.pages, self.folder, self.number = pages, folder, 0

    def put(self, data: bytes) -> Path:
        self.number += 1
        path = self.folder / str(self.number)
        path.write_bytes(data)
        return path

    async def draw(
        self, data: bytes, kind: str = PDF, index: int = 0, render: Render = SMALL
    ) -> DrawnPage:
        return await self.pages.draw(self.put(data), kind, index, render)

    async def count(self, data: bytes, kind: str = PDF) -> int:
        return await self.pages.count(self.put(data), kind)


@pytest.fixture
def desk(pages: Pages, tmp_path: Path) -> Desk:
    return Desk(pages, tmp_path)


def opened(jpeg: bytes) -> Image.Image:
    return Image.open(io.BytesIO(jpeg)).convert("RGB")


def near(found: object, wanted: tuple[int, ...], by: int = 12) -> bool:
    assert isinstance(found, tuple)
    return all(abs(one - other) <= by for one, other in zip(found, wanted, strict=True))


def close_to(box: Box, wanted: tuple[float, float, float, float]) -> bool:
    sides = (box.left, box.top, box.right, box.bottom)
    return all(abs(one - other) < 0.002 for one, other in zip(sides, wanted, strict=True))


# --- PDF -----------------------------------------------------------------------------------------


async def test_a_page_of_text_is_drawn_to_the_edge_of_the_card(desk: Desk) -> None:
    data = samples.text_pdf(["One", "Two", "Three"])
    assert await desk.count(data) == 3
    page = await desk.draw(data, index=2, render=Render())
    assert (page.index, page.width, page.height, page.dpi) == (2, 1088, 1540, 132)
    image = Image.open(io.BytesIO(page.jpeg))
    assert (image.format, image.mode, image.size) == ("JPEG", "L", (1088, 1540))
    assert image.getpixel((5, 5)) == 255
    assert not page.blank
    assert page.pictures == ()


@pytest.mark.parametrize(
    ("box", "size"),
    [
        (b"0 0 595 842", (283, 400)),
        (b"0 0 842 595", (400, 283)),
        (b"0 0 14400 14400", (400, 400)),
        (b"0 0 1 1", (400, 400)),
        (b"0 0 14400 1", (400, 8)),
        (b"0 0 -200 -100", (400, 200)),
        (b"100 100 300 200", (400, 200)),
        (b"0 0 0 0", (309, 400)),
        (b"0 0 1000000000 1000000000", (400, 400)),
        (b"0 0 nonsense 5", (309, 400)),
    ],
)
async def test_any_page_box_is_drawn_within_the_edge(
    desk: Desk, box: bytes, size: tuple[int, int]
) -> None:
    page = await desk.draw(samples.page_pdf(samples.line("x", 10, 10), box=box))
    assert (page.width, page.height) == size
    assert opened(page.jpeg).size == size


async def test_the_pixel_limit_of_the_card_holds(desk: Desk) -> None:
    render = Render(edge=4000, max_pixels=100_000)
    page = await desk.draw(samples.text_pdf(["x"]), render=render)
    assert (page.width, page.height) == (266, 375)
    assert page.width * page.height <= 100_000
    long = await desk.draw(samples.page_pdf(b"", size=(14400, 1)), render=render)
    assert (long.width, long.height) == (4000, 8)


async def test_a_scan_is_never_drawn_larger_than_it_is(desk: Desk) -> None:
    scan = await desk.draw(samples.scan_pdf((300, 424)), render=Render())
    assert (scan.width, scan.height, scan.dpi) == (300, 424, 36)
    assert scan.pictures == ()
    hidden = b"BT 3 Tr /F 12 Tf 72 72 Td (hidden) Tj ET"
    searchable = await desk.draw(samples.scan_pdf((300, 424), content=hidden), render=Render())
    assert (searchable.width, searchable.height) == (300, 424)
    strips = await desk.draw(samples.strips_pdf((300, 424), 7), render=Render())
    assert (strips.width, strips.height, strips.pictures) == (300, 424, ())


async def test_print_over_a_background_picture_is_drawn_finely(desk: Desk) -> None:
    data = samples.scan_pdf((300, 424), content=samples.line("Print", 72, 72))
    page = await desk.draw(data, render=Render())
    assert (page.width, page.height, page.pictures) == (1088, 1540, ())


@pytest.mark.parametrize(
    ("turn", "size", "box"),
    [
        (0, (283, 400), (50 / 595, 1 - 200 / 842, 250 / 595, 1 - 100 / 842)),
        (90, (400, 283), (100 / 842, 50 / 595, 200 / 842, 250 / 595)),
        (180, (283, 400), (1 - 250 / 595, 100 / 842, 1 - 50 / 595, 200 / 842)),
        (270, (400, 283), (1 - 200 / 842, 1 - 250 / 595, 1 - 100 / 842, 1 - 50 / 595)),
    ],
)
async def test_a_picture_is_found_where_it_is_drawn(
    desk: Desk, turn: int, size: tuple[int, int], box: tuple[float, float, float, float]
) -> None:
    page = await desk.draw(samples.rotated_pdf(turn))
    assert (page.width, page.height) == size
    (found,) = page.pictures
    assert close_to(found, box)
    (crop,) = await desk.pages.crop(page.jpeg, [found])
    image = opened(crop)
    left, top, right, bottom = found.pixels(*size)
    assert image.size == (right - left, bottom - top)
    assert near(image.getpixel((image.width // 2, image.height // 2)), (220, 30, 30))


async def test_a_crop_box_moves_the_pictures(desk: Desk) -> None:
    blue = samples.colour_jpeg((100, 100), BLUE)
    data = samples.picture_pdf(
        [(blue, (100, 100), (200, 400, 100, 100))], page=b"/CropBox [100 300 500 700]"
    )
    page = await desk.draw(data)
    assert (page.width, page.height) == (400, 400)
    (box,) = page.pictures
    assert close_to(box, (0.25, 0.5, 0.5, 0.75))


async def test_a_picture_in_forms_is_found(desk: Desk) -> None:
    data = samples.form_picture_pdf(samples.colour_jpeg((300, 150), GREEN), (300, 150))
    page = await desk.draw(data)
    (box,) = page.pictures
    assert close_to(box, (100 / 595, 1 - 350 / 842, 400 / 595, 1 - 200 / 842))
    (crop,) = await desk.pages.crop(page.jpeg, [box])
    assert near(opened(crop).getpixel((20, 20)), GREEN)


async def test_pictures_that_are_too_small_or_drawn_twice_are_left_out(desk: Desk) -> None:
    red = samples.colour_jpeg((50, 50), RED)
    places = [(50, 50, 100, 100), (50, 50, 100, 100), (300, 50, 5, 5), (300, 600, 200, 100)]
    page = await desk.draw(samples.picture_pdf([(red, (50, 50), place) for place in places]))
    tops = [round(box.top, 3) for box in page.pictures]
    assert tops == [round(1 - 700 / 842, 3), round(1 - 150 / 842, 3)]


async def test_form_fields_and_annotations_are_drawn(desk: Desk) -> None:
    look = samples.stream(
        b"1 0 0 rg 0 0 100 50 re f", b"/Type /XObject /Subtype /Form /BBox [0 0 100 50]"
    )
    note = b"<< /Type /Annot /Subtype /Stamp /Rect [100 100 200 150] /F 4 /AP << /N 7 0 R >> >>"
    data = samples.page_pdf(b"", size=(400, 400), page=b"/Annots [6 0 R]", more=[note, look])
    page = await desk.draw(data)
    assert near(opened(page.jpeg).getpixel((150, 275)), (255, 0, 0))
    assert not page.blank


def _type3_pdf() -> bytes:
    """Return a page with a letter of a Type 3 font, which draws itself in red."""
    font = (
        b"<< /Type /Font /Subtype /Type3 /FontBBox [0 0 1000 1000] /FontMatrix [.001 0 0 .001 0 0]"
        b" /CharProcs << /a 7 0 R >> /Encoding << /Differences [97 /a] >> /FirstChar 97"
        b" /LastChar 97 /Widths [1000] >>"
    )
    letter = samples.stream(b"1000 0 d0 1 0 0 rg 0 0 750 750 re f")
    whole = samples.page_pdf(b"BT /T 50 Tf 72 700 Td (a) Tj ET", more=[font, letter])
    return whole.replace(b"/F 5 0 R ", b"/T 6 0 R ")


def _pattern_pdf() -> bytes:
    """Return a page that is filled with a pattern of red."""
    pattern = samples.stream(
        b"1 0 0 rg 0 0 5 5 re f",
        b"/Type /Pattern /PatternType 1 /PaintType 1 /TilingType 1 /BBox [0 0 9 9] /XStep 9"
        b" /YStep 9 /Resources << >>",
    )
    paint = b"/Pattern cs /P scn 100 100 200 200 re f"
    return samples.page_pdf(paint, resources=b"/Pattern << /P 6 0 R >>", more=[pattern])


def _image_pdf(mode: str) -> bytes:
    """Return a page with a JPEG of that Pillow mode, mid-grey."""
    data = samples.saved(Image.new(mode, (40, 40), 90 if mode == "L" else (90, 90, 90)), "JPEG")
    whole = samples.picture_pdf([(data, (40, 40), (100, 100, 80, 80))])
    return whole.replace(b"/DeviceRGB", b"/DeviceGray") if mode == "L" else whole


def _forms_pdf(depth: int) -> bytes:
    """Return a page with a black square in so many forms within each other."""
    form = b"/Type /XObject /Subtype /Form /BBox [0 0 600 800]"
    nested = [
        samples.stream(b"/N Do", form + b" /Resources << /XObject << /N %d 0 R >> >>" % (7 + level))
        for level in range(depth - 1)
    ]
    last = samples.stream(b"100 100 200 200 re f", form)
    return samples.page_pdf(b"/N Do", resources=b"/XObject << /N 6 0 R >>", more=[*nested, last])


def _note_pdf(kind: bytes) -> bytes:
    """Return a page with an annotation of that subtype that has no appearance of its own."""
    note = b"<< /Type /Annot /Subtype /%s /Rect [100 100 200 150] /C [1 0 0] >>" % kind
    return samples.page_pdf(b"", page=b"/Annots [6 0 R]", more=[note])


_TEXT = samples.line("x", 72, 700)
_SQUARE = b" 100 100 200 200 re "


@pytest.mark.parametrize(
    ("data", "grey"),
    [
        pytest.param(samples.page_pdf(b""), True, id="empty"),
        pytest.param(samples.page_pdf(b"0.7 g .2 G" + _SQUARE + b"B"), True, id="levels"),
        # PDFium paints the black of printers as (35, 31, 32).
        pytest.param(samples.page_pdf(b"0 0 0 1 k" + _SQUARE + b"f"), False, id="black ink"),
        pytest.param(samples.page_pdf(b"0 0 .01 rg" + _SQUARE + b"f"), False, id="nearly black"),
        pytest.param(samples.page_pdf(b"0 0 1 RG" + _SQUARE + b"S"), False, id="outline"),
        pytest.param(samples.page_pdf(b"1 0 0 rg " + _TEXT), False, id="text"),
        pytest.param(samples.page_pdf(b"1 0 0 RG 1 Tr " + _TEXT), False, id="hollow text"),
        pytest.param(samples.page_pdf(b"1 0 0 rg 3 Tr " + _TEXT), True, id="invisible text"),
        pytest.param(samples.page_pdf(b"0 0 m 1 1 l S " * 201), False, id="too many to tell"),
        pytest.param(_type3_pdf(), False, id="type 3"),
        pytest.param(_pattern_pdf(), False, id="pattern"),
        pytest.param(_image_pdf("L"), True, id="grey image"),
        pytest.param(_image_pdf("RGB"), False, id="RGB image"),
        pytest.param(_forms_pdf(3), True, id="forms"),
        pytest.param(_forms_pdf(4), False, id="deep forms"),
        pytest.param(_note_pdf(b"Link"), True, id="link"),
        pytest.param(_note_pdf(b"Stamp"), False, id="stamp"),
    ],
)
async def test_a_page_without_colour_is_grey_where_the_card_allows(
    desk: Desk, data: bytes, grey: bool
) -> None:
    page = await desk.draw(data)
    assert Image.open(io.BytesIO(page.jpeg)).mode == ("L" if grey else "RGB")
    never = await desk.draw(data, render=Render(edge=400, grey="never"))
    assert Image.open(io.BytesIO(never.jpeg)).mode == "RGB"
    shown = zip(opened(page.jpeg).tobytes(), opened(never.jpeg).tobytes(), strict=True)
    assert max(abs(one - other) for one, other in shown) <= 2  # the rounding of the two JPEGs


async def test_a_grey_image_is_grey_where_the_card_allows(desk: Desk) -> None:
    data = samples.saved(Image.new("L", (60, 40), 90), "PNG")
    for allowed, mode in (("auto", "L"), ("never", "RGB")):
        render = Render.model_validate({"edge": 400, "grey": allowed})
        page = await desk.draw(data, "image/png", render=render)
        assert Image.open(io.BytesIO(page.jpeg)).mode == mode


@pytest.mark.parametrize(
    ("content", "blank"),
    [
        (b"", True),
        (b"0.9 0.95 1 rg 0 0 700 900 re f", True),
        (samples.line("1", 297, 30, 8), False),
        (samples.line("-", 297, 30, 8), False),
        (b"0.7 g " + samples.line("1", 297, 30, 9), False),
    ],
    ids=["empty", "coloured", "one", "dash", "grey"],
)
async def test_only_a_page_without_ink_is_blank(desk: Desk, content: bytes, blank: bool) -> None:
    page = await desk.draw(samples.page_pdf(content), render=Render())
    assert page.blank is blank


# --- images --------------------------------------------------------------------------------------


async def test_an_image_is_never_enlarged_and_its_dpi_follows_its_size(desk: Desk) -> None:
    jpeg = samples.saved(samples.halves((800, 600)), "JPEG", dpi=(300, 300))
    small = await desk.draw(jpeg, "image/jpeg")
    assert (small.width, small.height, small.dpi) == (400, 300, 150)
    whole = await desk.draw(jpeg, "image/jpeg", render=Render())
    assert (whole.width, whole.height, whole.dpi) == (800, 600, 300)
    limited = await desk.draw(jpeg, "image/jpeg", render=Render(max_pixels=12_000))
    assert limited.width * limited.height <= 12_600
    odd = samples.saved(samples.halves((80, 60)), "JPEG", dpi=(5, 5))
    assert (await desk.draw(odd, "image/jpeg")).dpi == 200


@pytest.mark.parametrize(
    ("orientation", "size", "red"),
    [
        (1, (200, 100), (50, 50)),
        (2, (200, 100), (150, 50)),
        (3, (200, 100), (150, 50)),
        (4, (200, 100), (50, 50)),
        (5, (100, 200), (50, 50)),
        (6, (100, 200), (50, 50)),
        (7, (100, 200), (50, 150)),
        (8, (100, 200), (50, 150)),
    ],
)
async def test_a_photo_is_turned_upright(
    desk: Desk, orientation: int, size: tuple[int, int], red: tuple[int, int]
) -> None:
    page = await desk.draw(samples.exif_jpeg(orientation), "image/jpeg")
    image = opened(page.jpeg)
    assert (page.width, page.height) == image.size == size
    assert near(image.getpixel(red), RED)
    assert near(image.getpixel((size[0] - 1 - red[0], size[1] - 1 - red[1])), BLUE) or near(
        image.getpixel((size[0] - 1 - red[0], red[1])), BLUE
    )


async def test_every_kind_of_pixel_becomes_grey_or_rgb(desk: Desk) -> None:
    cyan = opened((await desk.draw(samples.cmyk_jpeg(), "image/jpeg")).jpeg)
    assert near(cyan.getpixel((10, 10)), (0, 255, 255))
    page = await desk.draw(samples.rgba_png(), "image/png")
    flat = opened(page.jpeg)
    assert near(flat.getpixel((10, 10)), (255, 255, 255))
    assert near(flat.getpixel((50, 10)), GREEN)
    assert page.dpi == 300
    for level, grey in ((0, 0), (32768, 128), (65535, 255)):
        deep = await desk.draw(samples.sixteen_bit_png(level), "image/png")
        assert near(opened(deep.jpeg).getpixel((5, 5)), (grey, grey, grey), by=2)


@pytest.mark.parametrize(
    ("mode", "colour", "kind", "shown"),
    [
        ("1", 1, "TIFF", (255, 255, 255)),
        ("1", 0, "BMP", (0, 0, 0)),
        ("L", 90, "TIFF", (90, 90, 90)),
        ("LA", (0, 0), "PNG", (255, 255, 255)),
        ("F", 0.5, "TIFF", (128, 128, 128)),
        ("I", 65535, "TIFF", (255, 255, 255)),
        ("RGB", BLUE, "BMP", BLUE),
        ("RGB", BLUE, "WEBP", BLUE),
        ("CMYK", (0, 255, 255, 0), "TIFF", (255, 0, 0)),
    ],
)
async def test_modes(
    desk: Desk, mode: str, colour: object, kind: str, shown: tuple[int, int, int]
) -> None:
    image = Image.new(mode, (40, 40), colour)  # type: ignore[arg-type]
    page = await desk.draw(samples.saved(image, kind), f"image/{kind.lower()}")
    assert near(opened(page.jpeg).getpixel((20, 20)), shown)


async def test_a_transparent_palette_shows_paper(desk: Desk) -> None:
    image = Image.new("P", (40, 40), 1)
    image.putpalette([0, 0, 0, 255, 0, 0])
    page = await desk.draw(samples.saved(image, "PNG", transparency=1), "image/png")
    assert near(opened(page.jpeg).getpixel((20, 20)), (255, 255, 255))


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP"])
async def test_frames_are_pages_in_any_order(desk: Desk, kind: str) -> None:
    path = desk.put(
        samples.frames(kind, [RED, GREEN, BLUE], **({"lossless": True} if kind == "WEBP" else {}))
    )
    media_type = f"image/{kind.lower()}"
    assert await desk.pages.count(path, media_type) == 3
    for index, colour in ((2, BLUE), (0, RED), (1, GREEN)):
        page = await desk.pages.draw(path, media_type, index, SMALL)
        assert (page.index, page.width, page.height) == (index, 60, 40)
        assert near(opened(page.jpeg).getpixel((30, 20)), colour)


async def test_a_loop_of_frames_ends(desk: Desk) -> None:
    assert await desk.count(samples.loop_tiff(), "image/tiff") == 2


async def test_frames_beyond_the_limit_are_not_counted(desk: Desk) -> None:
    header, frame = samples.frames("GIF", [RED])[:-1], b",\0\0\0\0\1\0\1\0\0\2\2\x4c\1\0"
    assert await desk.count(header + frame * 12_000 + b";", "image/gif") == 10_000


# --- crops ---------------------------------------------------------------------------------------


async def test_crops_are_the_pixels_of_the_page(pages: Pages) -> None:
    page = samples.saved(samples.halves((200, 100)), "JPEG", quality=95)
    boxes = [Box(0.0, 0.0, 0.5, 1.0), Box(0.5, 0.25, 1.0, 0.5), Box(1.0, 1.0, 1.0, 1.0)]
    left, right, corner = map(opened, await pages.crop(page, boxes))
    assert (left.size, right.size, corner.size) == ((100, 100), (100, 25), (1, 1))
    assert near(left.getpixel((50, 50)), RED)
    assert near(right.getpixel((50, 10)), BLUE)
    assert near(corner.getpixel((0, 0)), BLUE)
    assert await pages.crop(page, []) == []
    with pytest.raises(DocumentDamaged):
        await pages.crop(b"no jpeg", boxes)


# --- bad input -----------------------------------------------------------------------------------

PNG = "image/png"


@pytest.mark.parametrize(
    ("data", "kind", "error", "says"),
    [
        (samples.encrypted_pdf(), PDF, DocumentEncrypted, "password"),
        (samples.empty_pdf(), PDF, DocumentEmpty, "no pages"),
        (b"", PDF, DocumentEmpty, "no bytes"),
        (b"", PNG, DocumentEmpty, "no bytes"),
        (b"%PDF-1.7\n%%EOF", PDF, DocumentDamaged, "damaged"),
        (b"<html>", PDF, DocumentDamaged, "damaged"),
        (samples.text_pdf(["x"])[:200], PDF, DocumentDamaged, "damaged"),
        (samples.loop_pdf(), PDF, DocumentDamaged, r"^Page 0 \(counted from 0\) is damaged"),
        (samples.rgba_png()[:60], PNG, DocumentDamaged, "damaged"),
        (samples.print_jpeg((99, 99))[:900], "image/jpeg", DocumentDamaged, "^Page 0"),
        (samples.cmyk_jpeg(), PNG, DocumentDamaged, "damaged"),
        (samples.huge_png(), PNG, ImageTooLarge, "^Page 0 .* more than 4000000 pixels"),
    ],
)
async def test_bad_documents_are_named_errors(
    desk: Desk, data: bytes, kind: str, error: type[AppError], says: str
) -> None:
    with pytest.raises(error, match=says):
        await desk.draw(data, kind)
    good = await desk.draw(samples.text_pdf(["good"]))
    assert (good.width, good.height) == (283, 400)


async def test_a_page_that_is_not_there_or_a_file_that_went(desk: Desk) -> None:
    for data, kind in ((samples.text_pdf(["x"]), PDF), (samples.rgba_png(), PNG)):
        with pytest.raises(DocumentDamaged, match="Page 5"):
            await desk.draw(data, kind, index=5)
    with pytest.raises(DocumentDamaged, match="gone"):
        await desk.pages.draw(desk.folder / "none", PDF, 0, SMALL)


@pytest.mark.parametrize("bomb", ["forms", "flate", "strokes"])
async def test_a_bomb_costs_one_page(tmp_path: Path, bomb: str) -> None:
    data = {
        "forms": samples.forms_bomb_pdf,
        "flate": samples.flate_bomb_pdf,
        "strokes": samples.stroke_bomb_pdf,
    }[bomb]()
    pages = Pages(1, Limits(memory_bytes=400 << 20, seconds=1.5), max_pixels=1_000_000)
    desk = Desk(pages, tmp_path)
    with pytest.raises(DocumentTooComplex, match=r"^Page 0 \(counted from 0\) takes more"):
        await desk.draw(data)
    good = await desk.draw(samples.text_pdf(["good"]))
    assert (good.width, good.height) == (283, 400)
    await pages.close()


async def test_a_closed_room_does_not_blame_the_document(tmp_path: Path) -> None:
    pages = Pages(1, LIMITS, max_pixels=1_000_000)
    pages.warm()
    await pages.close()
    with pytest.raises(Unavailable):
        await Desk(pages, tmp_path).draw(samples.text_pdf(["x"]))


async def test_a_file_that_changed_is_read_anew(desk: Desk) -> None:
    path = desk.put(samples.text_pdf(["x"]))
    assert await desk.pages.count(path, PDF) == 1
    path.write_bytes(samples.text_pdf(["x", "y"]))
    os.utime(path, ns=(1, 1))
    assert await desk.pages.count(path, PDF) == 2


async def test_a_pdf_is_opened_anew_after_many_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PDFium keeps what it parsed while the document is open."""
    monkeypatch.setattr(pdf_module, "_MOST_DRAWN", 3)
    monkeypatch.setattr(drawing, "_open", kept := OrderedDict[Any, Any]())
    path = tmp_path / "document"
    path.write_bytes(samples.text_pdf(["x", "y", "z"]))
    size = {"edge": 100, "dpi": None, "max_pixels": 10_000, "input_pixels": 1}
    look = {"quality": 85, "chroma": "4:2:0", "grey": "auto"}
    header = {"path": str(path), "type": PDF, **size, **look}
    assert drawing.handle({"do": "count", **header}, b"")[0] == {"count": 3}
    [first] = kept.values()
    open_after, jpegs = [], []
    for index in (0, 1, 2, 0, 1, 2):
        jpegs.append(drawing.handle({"do": "draw", "index": index, **header}, b"")[1])
        open_after.append([document is first for document in kept.values()])
    assert open_after == [[True], [True], [], [False], [False], []]
    assert jpegs[:3] == jpegs[3:]


# --- processes that die --------------------------------------------------------------------------

DYING = """
import os, signal, time
from pathlib import Path

def handle(header, payload):
    folder = Path(header["path"])
    fates = header["type"].split()
    tried = len(list(folder.iterdir()))
    (folder / str(tried)).touch()
    if fates[tried] == "LIVES":
        return {"count": 7}, b""
    if fates[tried] == "SLEEPS":
        time.sleep(60)
    os.kill(os.getpid(), getattr(signal, fates[tried]))
    time.sleep(60)
"""


@pytest.mark.parametrize(
    ("fates", "error"),
    [
        ("SIGKILL LIVES", None),
        ("SIGABRT LIVES", None),
        ("SIGKILL SIGKILL", Unavailable),
        ("SIGABRT SIGABRT", DocumentTooComplex),
        ("SIGKILL SIGABRT", DocumentTooComplex),
        ("SLEEPS", DocumentTooComplex),
        ("SIGABRT SLEEPS", DocumentTooComplex),
    ],
)
async def test_a_document_is_blamed_for_what_it_does_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fates: str, error: type[AppError] | None
) -> None:
    (tmp_path / "dying.py").write_text(DYING)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(pages_module, "_ENTRY", "dying:handle")
    pages, tries = Pages(1, Limits(1 << 30, 0.5), 1), tmp_path / "tries"
    tries.mkdir()
    try:
        if error is None:
            assert await pages.count(tries, fates) == 7
        else:
            with pytest.raises(error) as caught:
                await pages.count(tries, fates)
            assert type(caught.value) is error
    finally:
        await pages.close()
    assert len(list(tries.iterdir())) == len(fates.split())


class Deaths:
    """Pages of one path, of which those named by the test overrun; the others are drawn."""

    ENTRY = """
import time

def handle(header, payload):
    if header["do"] == "count":
        return {"count": 9}, b""
    if header["index"] in map(int, header["type"].split()):
        time.sleep(60)
    return {"width": 1, "height": 1, "dpi": 72, "blank": False, "pictures": []}, b""
"""

    def __init__(self, bad: str, size: int = 1) -> None:
        self.bad, self.path = bad, Path("document")
        self.pages = Pages(size, Limits(1 << 30, 0.5), 1)

    async def draw(self, index: int, apart: str = "") -> str:
        try:
            page = await self.pages.draw(self.path, self.bad, index, SMALL, apart=apart)
        except DocumentTooComplex as error:
            return "untried" if "was not drawn" in str(error) else "died"
        assert page.index == index
        return "drawn"


@pytest.fixture
def _deadly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deadly.py").write_text(Deaths.ENTRY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(pages_module, "_ENTRY", "deadly:handle")


@pytest.mark.usefixtures("_deadly")
async def test_r13_a_document_is_given_up_after_three_deaths_until_it_is_counted_again() -> None:
    """R13: the pages after that cost nothing; those before are drawn."""
    one = Deaths("1 3 5 7")
    found = [await one.draw(index) for index in range(8)]
    assert found == ["drawn", "died", "drawn", "died", "drawn", "died", "untried", "untried"]
    assert await one.pages.count(one.path, one.bad) == 9
    assert [await one.draw(index) for index in (6, 7, 8)] == ["drawn", "died", "drawn"]
    one.path = Path("another")
    assert await one.draw(0) == "drawn"
    await one.pages.close()


@pytest.mark.usefixtures("_deadly")
async def test_deaths_of_what_is_drawn_apart_are_not_the_documents() -> None:
    """A shadow's larger pages must not cost a caller the document."""
    one = Deaths("1 3 5")
    found = [await one.draw(index, "#shadow") for index in (1, 3, 5, 7)]
    assert found == ["died", "died", "died", "untried"]
    assert await one.draw(7) == "drawn"
    await one.pages.close()


@pytest.mark.usefixtures("_deadly")
async def test_r13_pages_after_a_death_have_less_time_and_one_process() -> None:
    """R13: pages that wait when the first one dies do not each take the whole time."""
    one = Deaths("0 1 2 3 4 5 6 7 8 9", size=2)
    begun = asyncio.get_running_loop().time()
    found = await asyncio.gather(*map(one.draw, range(10)))
    assert sorted(found) == ["died"] * 3 + ["untried"] * 7
    assert asyncio.get_running_loop().time() - begun < 3
    await one.pages.close()


@pytest.mark.usefixtures("_deadly")
async def test_what_is_remembered_of_documents_is_bounded() -> None:
    one = Deaths("0", size=2)
    kept = one.pages._troubles._kept
    assert await one.draw(1) == "drawn"
    assert not kept  # a document without a death
    for number in range(300):
        one.pages._troubles._record(f"bad {number}").deaths = 1
    assert await one.draw(0) == "died"
    assert len(kept) == 257
    await one.pages.close()


GATED = """
def handle(header, payload):
    if header["do"] == "count":
        return {"count": 1}, b""
    if header["do"] == "crop":
        return {"sizes": [len(payload)]}, payload
    if header["type"] == "gate":
        open(header["path"], "rb").read()
    return {"width": 1, "height": 1, "dpi": 72, "blank": False, "pictures": []}, b""
"""


async def test_owners_take_turns_and_count_before_they_draw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gated.py").write_text(GATED)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(pages_module, "_ENTRY", "gated:handle")
    pages, gate, done = Pages(1, LIMITS, 1), tmp_path / "gate", list[str]()
    os.mkfifo(gate)
    held = asyncio.ensure_future(pages.draw(gate, "gate", 0, SMALL, owner="big"))
    writer = await asyncio.to_thread(gate.open, "wb")  # returns when the child waits at it

    async def work(name: str, task: Awaitable[object]) -> None:
        await task
        done.append(name)

    wanted = [
        work("big crop", pages.crop(b"jpeg", [Box(0, 0, 1, 1)], owner="big")),
        work("big draw", pages.draw(Path("b"), PDF, 0, SMALL, owner="big")),
        work("big count", pages.count(Path("c"), PDF, owner="big")),
        work("small draw", pages.draw(Path("s"), PDF, 0, SMALL, owner="small")),
        work("small crop", pages.crop(b"jpeg", [Box(0, 0, 1, 1)], owner="small")),
        work("small count", pages.count(Path("t"), PDF, owner="small")),
    ]
    tasks = [asyncio.ensure_future(one) for one in wanted]
    await asyncio.sleep(0)
    await asyncio.to_thread(writer.close)
    await asyncio.gather(held, *tasks)
    assert [done[0::2], done[1::2]] == [
        ["small count", "small draw", "small crop"],
        ["big count", "big crop", "big draw"],
    ]
    await pages.close()


async def test_warming_and_a_problem_that_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = Pages(2, LIMITS, max_pixels=1_000_000)
    desk = Desk(pages, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", "/no/python")
        pages.warm()
        with pytest.raises(Unavailable):
            await desk.count(samples.text_pdf(["x"]))
    problem = pages.problem()
    assert problem is not None
    assert problem.startswith("No process that draws pages can be started: cannot start a child")
    pages.warm()
    assert await desk.count(samples.text_pdf(["x"])) == 1
    assert pages.problem() is None
    assert len(pages._pool._children) == 1
    await pages.close()
    assert pages.problem() is not None


async def test_only_drawing_keeps_its_buffers() -> None:
    pages = Pages(1, LIMITS, max_pixels=1)
    assert pages._pool._limits.keeps_buffers
    assert not LIMITS.keeps_buffers
