"""Image documents by Pillow: frames are pages. Runs in the child only."""

from __future__ import annotations

import math
from typing import Any

from PIL import Image, UnidentifiedImageError

from ocr_api.pages.pictures import Sides
from ocr_api.pages.sizes import SizeLimits
from ocr_api.processes.child import Refusal

Image.MAX_IMAGE_PIXELS = None  # `_check_size` comes before the pixels, with a limit of our own

_FORMATS = {
    "image/png": "PNG",
    "image/jpeg": "JPEG",
    "image/webp": "WEBP",
    "image/gif": "GIF",
    "image/bmp": "BMP",
    "image/tiff": "TIFF",
}
_SEVERAL_FRAMES = ("WEBP", "GIF", "TIFF")
_MOST_FRAMES = 10_000
_KEPT_PIXELS = 16_000_000
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_DPI = (36, 2400)  # what a scanner or a camera may truly have meant
_USUAL_DPI = 200
_WHITE = (255, 255, 255)


class Frames:
    """An open image file."""

    def __init__(self, path: str, media_type: str) -> None:
        """Open the file, whose content was seen to be of that type.

        Raises:
            Refusal: damaged.
        """
        self._format = _FORMATS[media_type]
        self.spent = False
        """It holds many pixels, or its only page was drawn: it is not worth keeping open."""
        try:
            self._image: Image.Image = Image.open(path, formats=[self._format])
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
            raise Refusal("damaged") from error

    def close(self) -> None:
        """Close the file."""
        self._image.close()

    def count(self) -> int:
        """Return the number of frames, at most 10,000.

        A photo with a preview beside it (MPO) and an animated PNG are one page.
        """
        if self._format not in _SEVERAL_FRAMES:
            return 1
        return min(int(getattr(self._image, "n_frames", 1)), _MOST_FRAMES)

    def draw(
        self, index: int, limits: SizeLimits, *, grey: bool
    ) -> tuple[Image.Image, int, list[Sides]]:
        """Return the frame upright as grey (where that is allowed) or RGB, its dpi, no pictures.

        What a file says of its paper is often wrong, so ``limits.dpi`` is not looked at.

        Raises:
            Refusal: damaged, too_large.
        """
        _check_size(self._image, limits.input_pixels)
        if self._format in _SEVERAL_FRAMES:
            self._image.seek(index)
        elif index != 0:
            raise Refusal("damaged")
        width, height = _check_size(self._image, limits.input_pixels)
        within = math.sqrt(limits.max_pixels / (width * height))
        scale = min(1.0, limits.edge / max(width, height), within)
        size = (max(1, int(width * scale + 0.5)), max(1, int(height * scale + 0.5)))
        if self._format == "JPEG":
            self._image.draft(None, (size[0] * 2, size[1] * 2))
        self._image.load()
        self.spent = self._format not in _SEVERAL_FRAMES or width * height > _KEPT_PIXELS
        image = _flat(self._image)
        if image.size != size:
            image = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
        image = _upright(image, self._image)
        if image.mode == "L" and not grey:
            image = image.convert("RGB")
        return image, _dpi(self._image, size[0] / width), []


def _check_size(image: Image.Image, input_pixels: int) -> tuple[int, int]:
    width, height = image.size
    if width < 1 or height < 1:
        raise Refusal("damaged")
    if width * height > input_pixels:
        raise Refusal("too_large")
    return width, height


def _flat(image: Image.Image) -> Image.Image:
    """Return the image as L or RGB; what is transparent shows white paper."""
    if image.mode in ("L", "RGB"):
        return image if "transparency" not in image.info else _on_white(image)
    if image.mode == "1":
        return image.convert("L")
    if image.mode[0] in "IF":
        return _eight_bits(image)
    if image.has_transparency_data:
        return _on_white(image)
    return image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    with_alpha = image.convert("RGBA")
    paper = Image.new("RGB", image.size, _WHITE)
    paper.paste(with_alpha, mask=with_alpha.getchannel("A"))
    return paper


def _eight_bits(image: Image.Image) -> Image.Image:
    """Return an image of 16 or 32 bits a pixel, or of floats, as 8 bits."""
    wide: Any = image if image.mode == "F" else image.convert("I").convert("F")
    _, brightest = wide.getextrema()
    if image.mode.startswith("I;16") or brightest > 256:  # noqa: PLR2004 - more than 8 bits
        white = 65535.0 if brightest <= 65535 else brightest  # noqa: PLR2004 - 16 bits
    else:
        white = 1.0 if brightest <= 1 else 255.0
    return wide.point(lambda level: level * (255.0 / white) + 0.5).convert("L")  # type: ignore[no-any-return]


def _upright(image: Image.Image, source: Image.Image) -> Image.Image:
    try:
        turn = _TURNS.get(source.getexif().get(_ORIENTATION, 1))
    except Exception:  # noqa: BLE001 - metadata may be broken in any way, the picture is not
        return image
    return image if turn is None else image.transpose(turn)


def _dpi(image: Image.Image, scale: float) -> int:
    """Return the dpi that the file claims, if a device may have it, after the change of size."""
    try:
        claimed = float(image.info["dpi"][0])
    except (KeyError, TypeError, ValueError, IndexError, ZeroDivisionError):
        return _USUAL_DPI
    if not _DPI[0] <= claimed <= _DPI[1]:
        return _USUAL_DPI
    return max(1, round(claimed * scale))
