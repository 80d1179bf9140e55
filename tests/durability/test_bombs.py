"""R13: documents made to hurt, through the whole service: each costs itself and nothing else."""

from __future__ import annotations

import asyncio
import base64
import random
import struct
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from tests import helpers, samples
from tests.bench.processes import children, resident_mib
from tests.durability.process import ROOT, Recto
from tests.durability.scale import SEED, scaled

MUTATIONS = scaled(200, 5000)
ANSWER_SECONDS = 15
GROWTH_MIB = 50
CHILDREN = 2
PAGE_SECONDS = 2
DOCUMENTS = ROOT.parent / "shared" / "documents"

READ, REFUSED = ("read",), ("refused",)
EITHER = ("read", "refused")


# --- documents -----------------------------------------------------------------------------------


def blanks(size: int) -> bytes:
    """Return ``size`` blanks, deflated; a whole number of MiB."""
    packer = zlib.compressobj(9)
    block = b" " * (1 << 20)
    first = packer.compress(block) + packer.flush(zlib.Z_FULL_FLUSH)
    again = packer.compress(block) + packer.flush(zlib.Z_FULL_FLUSH)
    return first + again * ((size >> 20) - 1) + packer.flush()


def image_pdf(data: bytes, entries: bytes, more: Sequence[bytes] = ()) -> bytes:
    """Return a page that is one image, which claims what ``entries`` say."""
    image = samples.stream(data, b"/Type /XObject /Subtype /Image " + entries)
    return samples.page_pdf(
        b"q 595 0 0 842 0 0 cm /I Do Q",
        resources=b"/XObject << /I 6 0 R >>",
        more=[image, *more],
    )


def content_pdf(packed: bytes) -> bytes:
    """Return a page whose content is ``packed`` with Flate."""
    return samples.pdf(
        [
            b"<< /Type /Catalog /Pages 2 0 R >>",
            b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 4 0 R >>",
            samples.stream(packed, b"/Filter /FlateDecode"),
        ]
    )


def flate_image_pdf(side: int) -> bytes:
    """Return a page with a bilevel image of ``side`` by ``side`` pixels, all black."""
    data = blanks(-(-side * side // 8 >> 20 << 20))
    kind = b"/ColorSpace /DeviceGray /BitsPerComponent 1 /Filter /FlateDecode"
    return image_pdf(data, b"/Width %d /Height %d %s" % (side, side, kind))


def fax_pdf(side: int) -> bytes:
    """Return a page with a white fax of Group 4: one bit a line (ITU-T T.6, vertical mode 0)."""
    kind = b"/ColorSpace /DeviceGray /BitsPerComponent 1 /Filter /CCITTFaxDecode"
    shape = b"/DecodeParms << /K -1 /Columns %d /Rows %d >>" % (side, side)
    data = b"\xff" * (side // 8 + 1)
    return image_pdf(data, b"/Width %d /Height %d %s %s" % (side, side, kind, shape))


def jbig2_pdf(side: int) -> bytes:
    """Return a page with a JBIG2 image (ITU-T T.88): page information and one generic region."""
    page = struct.pack(">IIIIBH", side, side, 0, 0, 0, 0)
    region = struct.pack(">IIIIBB", side, side, 0, 0, 0, 0) + bytes(
        [3, 255, 253, 255, 2, 254, 254, 254]
    )
    data = b"".join(
        struct.pack(">IBBBI", number, kind, 0, 1, len(body)) + body
        for number, (kind, body) in enumerate([(48, page), (38, region + b"\0" * 64)])
    )
    kind = b"/ColorSpace /DeviceGray /BitsPerComponent 1 /Filter /JBIG2Decode"
    return image_pdf(data, b"/Width %d /Height %d %s" % (side, side, kind))


def jpx_pdf(side: int) -> bytes:
    """Return a page with a JPEG 2000 image whose header (SIZ, ITU-T T.800) claims ``side``."""
    data = bytearray(samples.saved(Image.new("L", (64, 64), 90), "JPEG2000", no_jp2=True))
    place = data.index(b"\xff\x51") + 6
    struct.pack_into(">II", data, place, side, side)
    struct.pack_into(">II", data, place + 16, side, side)  # one tile
    return image_pdf(bytes(data), b"/Width %d /Height %d /Filter /JPXDecode" % (side, side))


def many_pages_pdf(count: int) -> bytes:
    """Return a PDF that has the same page ``count`` times."""
    kids = b"4 0 R " * count
    return samples.pdf(
        [
            b"<< /Type /Catalog /Pages 2 0 R >>",
            b"<< /Type /Pages /Kids [%s] /Count %d >>" % (kids, count),
            b"null",
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 5 0 R >>",
            samples.stream(b"100 100 200 200 re f"),
        ]
    )


def tree_pdf(width: int) -> bytes:
    """Return a small PDF of ``width`` squared pages: a tree whose branches are all the same."""
    fan = b"<< /Type /Pages /Parent 2 0 R /Kids [%s] /Count %d >>"
    return samples.pdf(
        [
            b"<< /Type /Catalog /Pages 2 0 R >>",
            fan % (b"3 0 R " * width, width * width),
            fan % (b"4 0 R " * width, width),
            b"<< /Type /Page /Parent 3 0 R /MediaBox [0 0 595 842] >>",
        ]
    )


def claimed_pages_pdf(count: int) -> bytes:
    """Return a PDF of one page that claims ``count`` pages."""
    whole = samples.text_pdf(["One"])
    return whole.replace(b"/Count 1 ", b"/Count %d " % count)


def stroke_pages_pdf(pages: int, strokes: int = 1_500_000) -> bytes:
    """Return a PDF of which every page takes a minute to draw."""
    content = zlib.compress(b"0 0 m 600 800 l S\n" * strokes, 9)
    kids = b" ".join(b"%d 0 R" % (4 + number) for number in range(pages))
    page = b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 3 0 R >>"
    return samples.pdf(
        [
            b"<< /Type /Catalog /Pages 2 0 R >>",
            b"<< /Type /Pages /Kids [%s] /Count %d >>" % (kids, pages),
            samples.stream(content, b"/Filter /FlateDecode"),
            *[page] * pages,
        ]
    )


def webp(side: int, *, frames: int = 0) -> bytes:
    """Return a lossless WebP that claims ``side`` by ``side``, or so many frames of one pixel.

    Format: RFC 9649; a canvas of 2**14 at most where it is lossless.
    """

    def chunk(name: bytes, data: bytes) -> bytes:
        return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)

    if not frames:
        body = chunk(
            b"VP8L", b"\x2f" + struct.pack("<I", (side - 1) | (side - 1) << 14) + bytes(12)
        )
    else:
        small = samples.saved(Image.new("RGB", (1, 1), "red"), "WEBP", lossless=True)[12:]
        canvas = struct.pack("<I", side - 1)[:3] * 2
        frame = chunk(b"ANMF", bytes(6) + bytes(6) + b"\x0a\0\0\0" + small)
        body = chunk(b"VP8X", b"\x02\0\0\0" + canvas) + chunk(b"ANIM", bytes(6)) + frame * frames
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def still(kind: str, count: int) -> bytes:
    """Return a GIF or TIFF of ``count`` frames."""
    return samples.frames(kind, [(number % 250, 90, 30) for number in range(count)])


@dataclass(frozen=True)
class Bomb:
    """A document, and what may come of it."""

    make: Callable[[], bytes]
    may: tuple[str, ...] = REFUSED
    pages: list[int] | None = None


BOMBS = {
    "nested forms": Bomb(samples.forms_bomb_pdf),
    "nested forms, wide": Bomb(lambda: samples.forms_bomb_pdf(400, 4)),
    "double Flate, 4 GB": Bomb(lambda: samples.flate_bomb_pdf(4 << 30)),
    "1.5 million strokes": Bomb(samples.stroke_bomb_pdf),
    "huge page": Bomb(lambda: samples.page_pdf(b"", box=b"0 0 1000000 1000000"), READ),
    "huge unit": Bomb(lambda: samples.page_pdf(b"", page=b"/UserUnit 75000"), READ),
    "long page": Bomb(lambda: samples.page_pdf(b"", box=b"0 0 3 14400"), READ),
    "infinite page": Bomb(lambda: samples.page_pdf(b"", box=b"0 0 1e38 1e38"), EITHER),
    "1.6 gigapixel image": Bomb(lambda: flate_image_pdf(40_000), EITHER),
    "fax of 4 gigapixels": Bomb(lambda: fax_pdf(65_000), EITHER),
    "JBIG2 of 3.6 gigapixels": Bomb(lambda: jbig2_pdf(60_000), EITHER),
    "JPEG 2000 of 3.6 gigapixels": Bomb(lambda: jpx_pdf(60_000), EITHER),
    "400 MB of blanks": Bomb(lambda: content_pdf(blanks(400 << 20)), EITHER),
    "page tree that holds itself": Bomb(samples.loop_pdf),
    "no pages": Bomb(samples.empty_pdf),
    "encrypted": Bomb(samples.encrypted_pdf),
    "cut off": Bomb(lambda: helpers.pages_pdf(3)[:400]),
    "header alone": Bomb(lambda: b"%PDF-1.7\n"),
    "100,000 pages": Bomb(lambda: many_pages_pdf(100_000)),
    "1,000,000 pages": Bomb(lambda: tree_pdf(1000)),
    "last of 1,000,000 pages": Bomb(lambda: tree_pdf(1000), EITHER, [999_999]),
    "claims 1,000,000 pages": Bomb(lambda: claimed_pages_pdf(1_000_000), EITHER),
    "last of those it claims": Bomb(lambda: claimed_pages_pdf(1_000_000), EITHER, [999_999]),
    "PNG of 900 megapixels": Bomb(samples.huge_png),
    "PNG of 4,000,000 gigapixels": Bomb(lambda: samples.huge_png(2**31 - 1, 2**31 - 1)),
    "WebP of 268 megapixels": Bomb(lambda: webp(16_383)),
    "animated WebP of 268 megapixels": Bomb(lambda: webp(16_383, frames=1000)),
    "animated WebP of 9 megapixels": Bomb(lambda: webp(3000, frames=20_000)),
    "TIFF of 300 frames": Bomb(lambda: still("TIFF", 300), READ),
    "GIF of 400 frames": Bomb(lambda: still("GIF", 400), READ),
    "TIFF whose frames are a ring": Bomb(samples.loop_tiff, EITHER),
}


# --- asking --------------------------------------------------------------------------------------


def body(document: bytes, pages: list[int] | None = None, **options: Any) -> dict[str, Any]:
    """Return a request to read the document; Recto tells the type from the content."""
    url = "data:application/octet-stream;base64," + base64.b64encode(document).decode()
    asked = {"model": "echo", "document": {"type": "document_url", "document_url": url}}
    return asked | options | ({} if pages is None else {"pages": pages})


def came_of(answer: httpx.Response) -> str:
    """Return ``read`` or ``refused``: an error of the document, or of each page that is missing."""
    if answer.status_code == 200:
        pages = answer.json()["pages"]
        return "refused" if any(page["error"] for page in pages) else "read"
    assert 400 <= answer.status_code < 500, (answer.status_code, answer.text[:300])
    assert answer.status_code != 429
    return "refused"


async def read_good(http: httpx.AsyncClient) -> None:
    """Read a document that has nothing wrong."""
    answer = await http.post("/v1/ocr", json=body(helpers.pages_pdf(1)))
    assert answer.status_code == 200, answer.text[:300]
    assert len(answer.json()["pages"]) == 1


@asynccontextmanager
async def reading_good(http: httpx.AsyncClient) -> AsyncIterator[None]:
    """Read good documents, one after the other, while the context is open; each must succeed."""
    done = asyncio.Event()

    async def go_on() -> None:
        while not done.is_set():
            await read_good(http)

    task = asyncio.create_task(go_on())
    try:
        yield
    finally:
        done.set()
        await task


@pytest.fixture(scope="module")
def bombed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recto]:
    """A service that gives a page two seconds, so that the tests are short."""
    yield from _serving(tmp_path_factory.mktemp("bombed"), RENDER_SECONDS=str(PAGE_SECONDS))


def _serving(folder: Path, **settings: str) -> Iterator[Recto]:
    recto = Recto(folder, RENDER_PROCESSES=str(CHILDREN), **settings)
    recto.upgrade()
    recto.start()
    yield recto
    recto.close()


def client(recto: Recto) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=recto.base, timeout=60)


async def check_well(recto: Recto, http: httpx.AsyncClient) -> None:
    """Fail unless a good page is read at once and no child is left that should not be."""
    begun = time.monotonic()
    await read_good(http)
    assert time.monotonic() - begun < 5
    alive = children(recto.pid)
    assert len(alive) <= CHILDREN
    assert max(map(resident_mib, alive)) < 512  # a quarter of the 2 GiB of address space


# --- the tests -----------------------------------------------------------------------------------


async def test_r13_each_bomb_costs_itself_alone(bombed: Recto) -> None:
    """R13: 4xx or page errors within 15 s, flat memory, and good documents read meanwhile."""
    found = {}
    async with client(bombed) as http, client(bombed) as other:
        await read_good(http)
        before = resident_mib(bombed.pid)
        async with reading_good(other):
            for name, bomb in BOMBS.items():
                asked = body(bomb.make(), bomb.pages, allow_partial=True)
                begun = time.monotonic()
                answer = await http.post("/v1/ocr", json=asked)
                took = time.monotonic() - begun
                assert came_of(answer) in bomb.may, (name, answer.text[:300])
                assert took < ANSWER_SECONDS, name
                found[name] = took, resident_mib(bombed.pid) - before
        await check_well(bombed, http)
    print(found)
    assert resident_mib(bombed.pid) - before < GROWTH_MIB, found


async def test_r13_a_document_is_given_up_after_three_deaths(bombed: Recto) -> None:
    """R13: a document of 300 bombs takes little longer than one of them."""
    asked = body(stroke_pages_pdf(300), allow_partial=True)
    async with client(bombed) as http:
        begun = time.monotonic()
        answer = await http.post("/v1/ocr", json=asked)
        assert time.monotonic() - begun < 3 * PAGE_SECONDS
        await check_well(bombed, http)
    assert came_of(answer) == "refused"
    assert "too many pages of the document" in answer.text


async def test_r13_a_bomb_costs_its_own_page(bombed: Recto) -> None:
    """R13: the pages beside it are read."""
    async with client(bombed) as http:
        answer = await http.post("/v1/ocr", json=body(helpers.bad_middle_pdf(), allow_partial=True))
    assert answer.status_code == 200, answer.text[:300]
    first, bomb, last = (page["error"] for page in answer.json()["pages"])
    assert (first, last) == (None, None)
    assert bomb.startswith("Page 1 (counted from 0) takes more time or memory")


async def test_r13_a_bomb_is_answered_in_time_by_default(tmp_path: Path) -> None:
    """R13: within 15 s with the limits that a service has by itself."""
    asked = body(stroke_pages_pdf(50))
    for recto in _serving(tmp_path):
        async with client(recto) as http:
            begun = time.monotonic()
            answer = await http.post("/v1/ocr", json=asked)
            assert time.monotonic() - begun < ANSWER_SECONDS
            assert answer.status_code == 400, answer.text[:300]
            assert answer.json()["error"]["code"] == "document_too_complex"
            await check_well(recto, http)


@pytest.mark.shared
async def test_r13_documents_that_broke_others_are_read_or_refused(bombed: Recto) -> None:
    """R13: damaged, encrypted and huge ones that were found in the wild."""
    if not DOCUMENTS.is_dir():
        pytest.skip("the documents are not beside the project")
    found = {}
    async with client(bombed) as http:
        for path in sorted(DOCUMENTS.glob("*/*.pdf")):
            if path.parent.name in {"broken", "protected", "limits"}:
                asked = body(path.read_bytes(), [0], allow_partial=True)
                found[path.stem] = came_of(await http.post("/v1/ocr", json=asked))
        await check_well(bombed, http)
    assert found["encrypted"] == found["header-then-eof"] == found["zero-bytes"] == "refused"
    assert found["500-pages"] == found["blank-page"] == "read"


# --- mutations -----------------------------------------------------------------------------------


def seeds() -> list[bytes]:
    """Return sound documents of every kind."""
    colours = [(200, 30, 30), (30, 30, 200), (30, 200, 30)]
    return [
        helpers.pages_pdf(3),
        helpers.two_pictures_pdf(),
        samples.scan_pdf((200, 280)),
        samples.form_picture_pdf(samples.print_jpeg((150, 75)), (150, 75)),
        fax_pdf(1000),
        jbig2_pdf(200),
        jpx_pdf(64),
        samples.exif_jpeg(6),
        samples.cmyk_jpeg(),
        samples.rgba_png(),
        samples.sixteen_bit_png(40_000),
        samples.saved(samples.print_image((200, 200)), "BMP"),
        *(samples.frames(kind, colours) for kind in ("GIF", "TIFF", "WEBP")),
    ]


def mutated(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """Return the document changed at random places; its first bytes stay, which tell the type."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 2, 4, 16))):
        at = rng.randrange(8, max(9, len(out)))
        piece = rng.randrange(1, 64)
        match rng.randrange(6):
            case 0:
                out[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                out[at : at + 4] = rng.choice((b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff"))
            case 2:
                del out[at : at + piece]
            case 3:
                out[at:at] = out[at : at + piece] * rng.choice((1, 2, 500))
            case 4:
                place = rng.randrange(len(other))
                out[at : at + piece] = other[place : place + piece]
            case 5:
                out[at : at + piece] = b"%d" % rng.choice((-1, 0, 2**31 - 1, 10**12))
    return bytes(out[: rng.randrange(8, len(out))] if rng.random() < 0.1 else out)


async def test_r13_mutations_are_read_or_refused(bombed: Recto) -> None:
    """R13: documents with random faults; none is a 5xx, and none is the service's last."""
    rng, sound = random.Random(SEED), seeds()
    documents = iter([mutated(rng, rng.choice(sound), rng.choice(sound)) for _ in range(MUTATIONS)])
    found: dict[int, int] = {}
    async with client(bombed) as http:
        await read_good(http)
        before = resident_mib(bombed.pid)

        async def go_through() -> None:
            for document in documents:
                begun = time.monotonic()
                answer = await http.post("/v1/ocr", json=body(document))
                assert answer.status_code < 500, (SEED, answer.text[:300])
                assert time.monotonic() - begun < ANSWER_SECONDS, SEED
                found[answer.status_code] = found.get(answer.status_code, 0) + 1

        await asyncio.gather(*(go_through() for _ in range(4)))
        await check_well(bombed, http)
    assert sum(found.values()) == MUTATIONS
    assert min(found[200], found[400]) > MUTATIONS // 10, (
        found
    )  # they are neither sound nor rubbish
    assert resident_mib(bombed.pid) - before < GROWTH_MIB
