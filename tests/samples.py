"""Small documents made in code: sound ones, odd ones, hostile ones. Pure functions, bytes out.

PDF text stands in Helvetica, which every PDF reader brings; sizes are points.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence

from PIL import Image, ImageDraw

A4 = (595, 842)
Picture = tuple[bytes, tuple[int, int], tuple[float, float, float, float]]
"""JPEG, its size in pixels, and left, bottom, width, height on the page in points."""


# --- PDF -----------------------------------------------------------------------------------------


def pdf(objects: Sequence[bytes], trailer: bytes = b"") -> bytes:
    """Return a PDF of these objects, numbered from 1; the first is the catalogue."""
    out = bytearray(b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n")
    places = []
    for number, body in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % place for place in places)
    size = b"/Size %d /Root 1 0 R" % (len(objects) + 1)
    return bytes(out + b"trailer\n<< %s %s >>\nstartxref\n%d\n%%%%EOF\n" % (size, trailer, start))


def stream(data: bytes, entries: bytes = b"") -> bytes:
    """Return a stream object."""
    return b"<< %s /Length %d >>\nstream\n%s\nendstream" % (entries, len(data), data)


def page_pdf(
    content: bytes,
    *,
    size: tuple[float, float] = A4,
    page: bytes = b"",
    resources: bytes = b"",
    more: Sequence[bytes] = (),
    box: bytes | None = None,
    trailer: bytes = b"",
) -> bytes:
    """Return a PDF of one page; ``more`` objects have the numbers from 6."""
    media = box or b"0 0 %g %g" % size
    return pdf(
        [
            b"<< /Type /Catalog /Pages 2 0 R >>",
            b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
            b"<< /Type /Page /Parent 2 0 R /MediaBox [%s] /Contents 4 0 R %s"
            b" /Resources << /Font << /F 5 0 R >> %s >> >>" % (media, page, resources),
            stream(content),
            b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
            *more,
        ],
        trailer,
    )


def line(text: str, x: float, y: float, size: float = 12) -> bytes:
    """Return the content of one line of text."""
    return b"BT /F %g Tf %g %g Td (%s) Tj ET\n" % (size, x, y, text.encode("latin-1"))


def text_pdf(pages: Sequence[str], size: tuple[float, float] = A4) -> bytes:
    """Return a PDF with one page per text, the lines of a text below each other."""
    kids = b" ".join(b"%d 0 R" % (4 + 2 * number) for number in range(len(pages)))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [%s] /Count %d >>" % (kids, len(pages)),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for number, text in enumerate(pages):
        lines = text.splitlines()
        content = b"".join(line(one, 72, size[1] - 90 - 16 * row) for row, one in enumerate(lines))
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 %g %g] /Contents %d 0 R"
            b" /Resources << /Font << /F 3 0 R >> >> >>" % (*size, 5 + 2 * number)
        )
        objects.append(stream(content))
    return pdf(objects)


def picture_pdf(
    pictures: Sequence[Picture],
    *,
    size: tuple[float, float] = A4,
    content: bytes = b"",
    page: bytes = b"",
) -> bytes:
    """Return a one-page PDF with JPEG pictures, then ``content`` on top of them."""
    names = b" ".join(b"/I%d %d 0 R" % (number, 6 + number) for number in range(len(pictures)))
    drawn = b"".join(
        b"q %g 0 0 %g %g %g cm /I%d Do Q\n" % (place[2], place[3], place[0], place[1], number)
        for number, (_, _, place) in enumerate(pictures)
    )
    images = [jpeg_object(data, pixels) for data, pixels, _ in pictures]
    return page_pdf(
        drawn + content,
        size=size,
        page=page,
        resources=b"/XObject << %s >>" % names,
        more=images,
    )


def jpeg_object(jpeg: bytes, pixels: tuple[int, int]) -> bytes:
    """Return the image object of an RGB JPEG."""
    return stream(
        jpeg,
        b"/Type /XObject /Subtype /Image /Width %d /Height %d /ColorSpace /DeviceRGB"
        b" /BitsPerComponent 8 /Filter /DCTDecode" % pixels,
    )


def scan_pdf(
    pixels: tuple[int, int], size: tuple[float, float] = A4, content: bytes = b""
) -> bytes:
    """Return a PDF whose page is one picture of print, with ``content`` on top."""
    return picture_pdf([(print_jpeg(pixels), pixels, (0, 0, *size))], size=size, content=content)


def strips_pdf(pixels: tuple[int, int], count: int, size: tuple[float, float] = A4) -> bytes:
    """Return a PDF whose page is one picture of print cut into strips."""
    whole = Image.open(io.BytesIO(print_jpeg(pixels)))
    pictures: list[Picture] = []
    for number in range(count):
        top, bottom = pixels[1] * number // count, pixels[1] * (number + 1) // count
        strip = whole.crop((0, top, pixels[0], bottom))
        height = size[1] * (bottom - top) / pixels[1]
        place = (0.0, size[1] * (1 - bottom / pixels[1]), float(size[0]), height)
        pictures.append((saved(strip, "JPEG"), strip.size, place))
    return picture_pdf(pictures, size=size)


def form_picture_pdf(jpeg: bytes, pixels: tuple[int, int]) -> bytes:
    """Return an A4 page with a picture inside a form inside a form.

    The picture is at x 100, y 200 from the bottom, and 300 x 150 points large.
    """
    inner = stream(
        b"q 150 0 0 75 0 0 cm /I Do Q",
        b"/Type /XObject /Subtype /Form /BBox [0 0 1000 1000]"
        b" /Resources << /XObject << /I 8 0 R >> >>",
    )
    outer = stream(
        b"q 2 0 0 2 0 0 cm /B Do Q",
        b"/Type /XObject /Subtype /Form /BBox [0 0 1000 1000] /Matrix [1 0 0 1 40 50]"
        b" /Resources << /XObject << /B 7 0 R >> >>",
    )
    return page_pdf(
        b"q 1 0 0 1 60 150 cm /A Do Q",
        resources=b"/XObject << /A 6 0 R >>",
        more=[outer, inner, jpeg_object(jpeg, pixels)],
    )


def rotated_pdf(turn: int) -> bytes:
    """Return an A4 page with /Rotate, and a red picture at the lower left of the unturned page.

    The picture is at x 50, y 100, and 200 x 100 points large.
    """
    red = colour_jpeg((400, 200), (220, 30, 30))
    return picture_pdf([(red, (400, 200), (50, 100, 200, 100))], page=b"/Rotate %d" % turn)


def empty_pdf() -> bytes:
    """Return a PDF without a page."""
    return pdf([b"<< /Type /Catalog /Pages 2 0 R >>", b"<< /Type /Pages /Kids [] /Count 0 >>"])


def loop_pdf() -> bytes:
    """Return a PDF whose page tree contains itself."""
    return pdf(
        [
            b"<< /Type /Catalog /Pages 2 0 R >>",
            b"<< /Type /Pages /Kids [3 0 R] /Count 5 >>",
            b"<< /Type /Pages /Parent 2 0 R /Kids [2 0 R 3 0 R] /Count 5 >>",
        ]
    )


def encrypted_pdf() -> bytes:
    """Return a PDF that asks for a password; nobody knows it."""
    secret = b"/Encrypt << /Filter /Standard /V 1 /R 2 /P -4 /O <%s> /U <%s> >> /ID [<%s> <%s>]" % (
        b"41" * 32,
        b"42" * 32,
        b"43" * 16,
        b"43" * 16,
    )
    return page_pdf(line("secret", 72, 700), trailer=secret)


def forms_bomb_pdf(width: int = 20, depth: int = 9) -> bytes:
    """Return a PDF of 3 kB that draws width ** depth things; PDFium aborts, or never ends."""
    forms = [
        stream(
            b"/N Do " * width,
            b"/Type /XObject /Subtype /Form /BBox [0 0 600 800]"
            b" /Resources << /XObject << /N %d 0 R >> >>" % (7 + level),
        )
        for level in range(depth - 1)
    ]
    last = stream(b"0 0 600 800 re f", b"/Type /XObject /Subtype /Form /BBox [0 0 600 800]")
    return page_pdf(b"/N Do " * width, resources=b"/XObject << /N 6 0 R >>", more=[*forms, last])


def flate_bomb_pdf(size: int = 1 << 30) -> bytes:
    """Return a PDF of a few kB whose content unpacks, twice, to ``size`` blanks; PDFium aborts."""
    packer = zlib.compressobj(9)
    block = b" " * (1 << 20)
    first = packer.compress(block) + packer.flush(zlib.Z_FULL_FLUSH)
    again = packer.compress(block) + packer.flush(zlib.Z_FULL_FLUSH)
    packed = zlib.compress(first + again * (size >> 20) + packer.flush(), 9)
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 4 0 R >>",
        stream(packed, b"/Filter [/FlateDecode /FlateDecode]"),
    ]
    return pdf(objects)


def stroke_bomb_pdf(strokes: int = 1_500_000) -> bytes:
    """Return a PDF of 70 kB with so many lines that drawing takes a minute."""
    content = zlib.compress(b"0 0 m 600 800 l S\n" * strokes, 9)
    return pdf(
        [
            b"<< /Type /Catalog /Pages 2 0 R >>",
            b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 4 0 R >>",
            stream(content, b"/Filter /FlateDecode"),
        ]
    )


# --- images --------------------------------------------------------------------------------------


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    """Return the image as a file of that Pillow format."""
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def print_image(pixels: tuple[int, int]) -> Image.Image:
    """Return white paper with dark bars like lines of print."""
    image = Image.new("RGB", pixels, "white")
    draw = ImageDraw.Draw(image)
    for y in range(pixels[1] // 10, pixels[1] * 9 // 10, max(4, pixels[1] // 40)):
        draw.rectangle((pixels[0] // 10, y, pixels[0] * 9 // 10, y + pixels[1] // 100), "black")
    return image


def print_jpeg(pixels: tuple[int, int]) -> bytes:
    """Return `print_image` as a JPEG."""
    return saved(print_image(pixels), "JPEG", quality=80)


def colour_jpeg(pixels: tuple[int, int], colour: tuple[int, int, int]) -> bytes:
    """Return a JPEG of one colour."""
    return saved(Image.new("RGB", pixels, colour), "JPEG", quality=90)


def halves(pixels: tuple[int, int]) -> Image.Image:
    """Return an image whose left half is red and whose right half is blue."""
    image = Image.new("RGB", pixels, (220, 0, 0))
    image.paste((0, 0, 220), (pixels[0] // 2, 0, *pixels))
    return image


def exif_jpeg(orientation: int, pixels: tuple[int, int] = (200, 100)) -> bytes:
    """Return `halves` as a JPEG with an EXIF orientation (1 to 8)."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(halves(pixels), "JPEG", quality=95, exif=exif)


def cmyk_jpeg(pixels: tuple[int, int] = (64, 32)) -> bytes:
    """Return a CMYK JPEG of pure cyan."""
    return saved(Image.new("CMYK", pixels, (255, 0, 0, 0)), "JPEG", quality=95)


def rgba_png(pixels: tuple[int, int] = (64, 32)) -> bytes:
    """Return a PNG whose left half is transparent black and whose right half is solid green."""
    image = Image.new("RGBA", pixels, (0, 0, 0, 0))
    image.paste((0, 160, 0, 255), (pixels[0] // 2, 0, *pixels))
    return saved(image, "PNG", dpi=(300, 300))


def sixteen_bit_png(level: int, pixels: tuple[int, int] = (64, 32)) -> bytes:
    """Return a grey PNG of 16 bits a pixel, all of ``level`` (0 to 65535)."""
    return saved(
        Image.frombytes("I;16", pixels, struct.pack("<H", level) * (pixels[0] * pixels[1])), "PNG"
    )


def frames(kind: str, colours: Sequence[tuple[int, int, int]], **options: object) -> bytes:
    """Return a GIF, TIFF or WEBP with one frame of 60 x 40 pixels per colour.

    A black dot in another place each keeps encoders from joining frames.
    """
    images = []
    for number, colour in enumerate(colours):
        image = Image.new("RGB", (60, 40), colour)
        image.putpixel((number % 60, 0), (0, 0, 0))
        images.append(image.quantize(16) if kind == "GIF" else image)
    return saved(images[0], kind, save_all=True, append_images=images[1:], **options)


def loop_tiff() -> bytes:
    """Return a TIFF whose second frame names the first as the one that follows."""
    data = bytearray(frames("TIFF", [(255, 0, 0), (0, 0, 255)]))
    first = struct.unpack_from("<I", data, 4)[0]
    end = first + 2 + 12 * struct.unpack_from("<H", data, first)[0]
    second = struct.unpack_from("<I", data, end)[0]
    end = second + 2 + 12 * struct.unpack_from("<H", data, second)[0]
    struct.pack_into("<I", data, end, first)
    return bytes(data)


def huge_png(width: int = 30_000, height: int = 30_000) -> bytes:
    """Return a PNG of 60 bytes that claims so many pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"")), chunk(b"IEND", b"")]
    )
