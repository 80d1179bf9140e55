"""Pages of documents: counted, drawn and cropped in supervised child processes.

Why processes: PDFium is not thread-safe, and aborts when it runs out of memory, so that a file of
3 kB could end the whole service. The code that runs in the children stands in the modules beside
this one; it is not imported here, and the children do not import pydantic or the web framework.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from files_api.kit.errors import (
    AppError,
    DocumentDamaged,
    DocumentEmpty,
    DocumentEncrypted,
    DocumentTooComplex,
    ImageTooLarge,
    Unavailable,
)
from ocr_api.pages.troubles import GivenUp, Troubles
from ocr_api.processes import (
    ChildDied,
    ChildKilled,
    Limits,
    Pool,
    PoolUnavailable,
    TaskRefused,
)
from ocr_api.result import Box

if TYPE_CHECKING:
    from model_registry.card import Render

__all__ = ["DrawnPage", "Limits", "Pages"]

_ENTRY = "ocr_api.pages.drawing:handle"
_MOST_PICTURES = 64
_RESIDENT_SHARE = 4
"""A process is replaced when a page leaves it with this part of its address space in use: 512 MiB
of 2 GiB, where ordinary pages take 40 to 100."""
_ERRORS: Mapping[str, tuple[type[AppError], str]] = {
    "encrypted": (DocumentEncrypted, ""),
    "empty": (DocumentEmpty, ""),
    "too_large": (ImageTooLarge, "has more than {pixels} pixels"),
    "memory": (DocumentTooComplex, "takes more memory to draw than this server allows"),
    "missing": (DocumentDamaged, "cannot be drawn: the document is gone"),
}
_KILLED = "could not be drawn: the processes that draw it were killed, twice; try again"
_TOO_COMPLEX = "takes more time or memory to draw than this server allows"
_GIVEN_UP = "was not drawn: too many pages of the document took too much time or memory"
_DAMAGED = (DocumentDamaged, "is damaged and cannot be drawn")


@dataclass(frozen=True, slots=True)
class DrawnPage:
    """One drawn page."""

    index: int
    """Place in the document, from 0."""
    width: int
    """Pixels."""
    height: int
    """Pixels."""
    dpi: int
    """Pixels per inch of paper."""
    jpeg: bytes
    """The page, upright as its reader sees it; grey or RGB."""
    blank: bool
    """There is no ink on the page."""
    pictures: tuple[Box, ...]
    """Pictures inside a PDF page, in reading order; a scan of the whole page is none."""

    def turned(self, degrees: int) -> DrawnPage:
        """Return the page turned clockwise by 0, 90, 180 or 270; ``jpeg`` stays as it was drawn."""
        width, height = (self.height, self.width) if degrees % 180 else (self.width, self.height)
        pictures = tuple(box.turned(degrees) for box in self.pictures)
        return replace(self, width=width, height=height, pictures=pictures)


class Pages:
    """Counts and draws pages in up to ``size`` processes."""

    def __init__(self, size: int, limits: Limits, max_pixels: int) -> None:
        """Start nothing. ``max_pixels`` is the most pixels of one frame of an image document."""
        # A page needs some buffers of 5 MB; a malloc that gives them back to the kernel faults
        # them in again for every page (8 ms of 20).
        most = limits.memory_bytes // _RESIDENT_SHARE
        limits = replace(limits, keeps_buffers=True, resident_bytes=most)
        self._pool = Pool(_ENTRY, size, limits)
        self._troubles = Troubles(self._pool.size, limits.seconds)
        self.places = size
        """How many pages can be drawn at once."""
        self._max_pixels = max_pixels
        self._warming: asyncio.Task[None] | None = None

    def warm(self) -> None:
        """Start one process in the background, so that the first page is quick.

        Where none can be started, `problem` says so, and the next page tries again.
        """
        self._warming = asyncio.create_task(self._warm())

    def problem(self) -> str | None:
        """Return why no page can be drawn now, or None; starts nothing, so it may be out of date.

        A start that failed counts for 30 s, or until one works: only a request tries again.
        """
        why = self._pool.problem()
        return None if why is None else f"No process that draws pages can be started: {why}."

    async def close(self) -> None:
        """End the processes."""
        await self._pool.close()
        if self._warming is not None:
            await asyncio.wait({self._warming})

    async def count(self, path: Path, media_type: str, *, owner: str = "") -> int:
        """Return the number of pages: of a PDF its pages, of an image its frames (at most 10,000).

        Every reading of a document begins with it: what its pages did before is forgotten. It
        waits for none of the pages of the same ``owner`` that wait to be drawn.

        Raises:
            DocumentEncrypted, DocumentDamaged, DocumentEmpty, ImageTooLarge, DocumentTooComplex:
                the document cannot be used.
            Unavailable: no process can be started, or somebody else kills them.
        """
        self._troubles.forget(str(path))
        header = {"do": "count", "path": str(path), "type": media_type}
        answer, _ = await self._run(header, owner=owner, document=str(path))
        count = answer.get("count")
        if not isinstance(count, int) or count < 1:
            raise DocumentEmpty
        return count

    async def draw(
        self,
        path: Path,
        media_type: str,
        index: int,
        render: Render,
        *,
        owner: str = "",
        apart: str = "",
    ) -> DrawnPage:
        """Return page ``index`` (from 0) as a JPEG.

        Its longest edge is ``render.edge``, or less where ``render.dpi`` gives a page of a PDF
        less, or where the page is an image, or a scan, that has fewer pixels. A document whose
        pages killed three processes is given up: its other pages are too complex, untried.

        Processes are shared equally between the ``owner`` of the page and others who have pages
        to be drawn, however many. What is drawn ``apart``, under some name, does not count against
        the document where it kills a process.

        Raises:
            DocumentEncrypted, DocumentDamaged, DocumentEmpty, ImageTooLarge, DocumentTooComplex:
                the page cannot be drawn; the message names it.
            Unavailable: no process can be started, or somebody else kills them.
        """
        header = {
            "do": "draw",
            "path": str(path),
            "type": media_type,
            "index": index,
            "edge": render.edge,
            "dpi": render.dpi,
            "max_pixels": render.max_pixels,
            "quality": render.quality,
            "chroma": render.chroma,
            "grey": render.grey,
            "input_pixels": self._max_pixels,
        }
        document = str(path) + apart
        try:
            async with self._troubles.turn(document) as seconds:
                answer, jpeg = await self._run(
                    header, owner=owner, document=document, page=index, within=seconds
                )
        except GivenUp:
            raise DocumentTooComplex(_message(index, _GIVEN_UP)) from None
        return _drawn(index, answer, jpeg)

    async def crop(
        self,
        jpeg: bytes,
        boxes: Sequence[Box],
        quality: int = 85,
        turned: int = 0,
        *,
        owner: str = "",
    ) -> list[bytes]:
        """Return a JPEG of each box of a drawn page, in the page's own pixels, at least 1 x 1.

        The page is first turned clockwise by ``turned`` degrees (0, 90, 180, 270).

        Raises:
            DocumentDamaged: the page is no JPEG.
            DocumentTooComplex: the boxes take too much time or memory.
            Unavailable: no process can be started, or somebody else kills them.
        """
        if not boxes:
            return []
        corners = [[box.left, box.top, box.right, box.bottom] for box in boxes]
        header = {"do": "crop", "boxes": corners, "quality": quality, "turned": turned}
        answer, data = await self._run(header, jpeg, owner=owner)
        crops, start = [], 0
        for size in answer.get("sizes", ()):
            crops.append(data[start : start + int(size)])
            start += int(size)
        if len(crops) != len(boxes):
            raise DocumentDamaged
        return crops

    async def _warm(self) -> None:
        with suppress(PoolUnavailable):
            await self._pool.warm()

    async def _run(
        self,
        header: Mapping[str, Any],
        payload: bytes = b"",
        *,
        owner: str,
        document: str | None = None,
        page: int | None = None,
        within: float | None = None,
    ) -> tuple[dict[str, Any], bytes]:
        try:
            return await self._pool.call(
                header,
                payload,
                owner=owner,
                affinity=document,
                quick=header["do"] == "count",
                seconds=within,
            )
        except PoolUnavailable as error:
            raise Unavailable("No process that draws pages can be started.") from error
        except ChildKilled as error:
            raise Unavailable(_message(page, _KILLED)) from error
        except TaskRefused as refusal:
            cls, does = _ERRORS.get(refusal.code, _DAMAGED)
            raise cls(_message(page, does.format(pixels=self._max_pixels))) from refusal
        except ChildDied as death:
            if document is not None and page is not None:
                self._troubles.died(document)
            raise DocumentTooComplex(_message(page, _TOO_COMPLEX)) from death


def _message(index: int | None, does: str) -> str | None:
    """Return what happened to which page, or None for the default message of the error."""
    return None if index is None or not does else f"Page {index} (counted from 0) {does}."


def _drawn(index: int, answer: Mapping[str, Any], jpeg: bytes) -> DrawnPage:
    """Return the page that a child describes; a child that a document took over may say anything.

    Raises:
        DocumentDamaged: it describes no page.
    """
    try:
        return DrawnPage(
            index=index,
            width=int(answer["width"]),
            height=int(answer["height"]),
            dpi=int(answer["dpi"]),
            jpeg=jpeg,
            blank=answer["blank"] is True,
            pictures=tuple(
                Box.of(*(float(side) for side in sides))
                for sides in answer["pictures"][:_MOST_PICTURES]
            ),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DocumentDamaged(_message(index, _DAMAGED[1])) from error
