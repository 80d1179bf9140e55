"""From parts to a file: which parts, in which order, and their bytes as one stream."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing

from files_api.blobs import BlobStore
from files_api.kit.errors import TooLarge, UploadIncomplete
from files_api.uploads.records import PartRecord

MAX_PART_BYTES = 64 * 1024 * 1024
"""Most bytes of a part: what `openai`'s ``upload_file_chunked`` sends (67,108,864)."""
_SHOWN = 36


class Meter:
    """Counts and hashes the bytes of a part as they pass."""

    def __init__(self, room: int) -> None:
        """Take how many bytes the upload has room for."""
        self.size = 0
        self._room = room
        self._hash = hashlib.sha256()

    async def pass_through(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Yield the chunks.

        Raises:
            TooLarge: they are more than a part may have, or than there is room for.
        """
        async for chunk in chunks:
            self.size += len(chunk)
            if self.size > MAX_PART_BYTES:
                raise TooLarge(f"A part has at most {MAX_PART_BYTES} bytes.", param="data")
            check_room(self._room - self.size)
            self._hash.update(chunk)
            yield chunk

    def sha256(self) -> str:
        """Return the hash of what passed, in hexadecimal."""
        return self._hash.hexdigest()


def check_room(room: int) -> None:
    """Raise `TooLarge` when less than nothing is left of what an upload's parts may come to."""
    if room < 0:
        raise TooLarge("The parts come to more than twice the bytes of the upload.", param="data")


def chosen(parts: Mapping[str, PartRecord], part_ids: Sequence[str], size: int) -> list[PartRecord]:
    """Return the parts that are named, in this order.

    Args:
        parts: those of the upload, by id.
        part_ids: as the client sent them; capital letters become small.
        size: the bytes they must add up to.

    Raises:
        UploadIncomplete: one is unknown or named twice, or the sizes do not add up.
    """
    found: dict[str, PartRecord] = {}
    for sent in part_ids:
        part = parts.get(sent.lower())
        shown = sent[:_SHOWN]
        if part is None:
            raise UploadIncomplete(f"The upload has no part {shown!r}.", param="part_ids")
        if part.id in found:
            raise UploadIncomplete(f"The part {shown!r} is named twice.", param="part_ids")
        found[part.id] = part
    total = sum(part.bytes for part in found.values())
    if total != size:
        raise UploadIncomplete(
            f"The parts have {total} bytes together; the upload was declared with {size}.",
            param="part_ids",
        )
    return list(found.values())


async def joined(
    blobs: BlobStore, parts: Sequence[PartRecord], md5: str | None = None
) -> AsyncGenerator[bytes, None]:
    """Yield the bytes of the parts, one after the other, in chunks of at most 1 MiB.

    A chunk is read ahead while the one before is worked on.

    Args:
        blobs: where the parts lie.
        parts: which, in this order.
        md5: of all bytes, in hexadecimal, when it is to be checked.

    Raises:
        BlobMissing: a part's bytes are gone.
        UploadIncomplete: a part's bytes are not those that came, or the md5 does not fit; raised
            instead of the end.
    """
    async with aclosing(_checked(blobs, parts, md5)) as chunks:
        reading = asyncio.ensure_future(anext(chunks, None))
        try:
            while (chunk := await reading) is not None:
                reading = asyncio.ensure_future(anext(chunks, None))
                yield chunk
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)


async def _checked(
    blobs: BlobStore, parts: Sequence[PartRecord], md5: str | None
) -> AsyncGenerator[bytes, None]:
    whole = hashlib.md5(usedforsecurity=False)
    for part in parts:
        digest = hashlib.sha256()
        hashes = (digest, whole) if md5 else (digest,)
        async for chunk in blobs.read(part.blob_key):
            # In a thread, because another thread writes the chunk before meanwhile.
            await asyncio.to_thread(_update, hashes, chunk)
            yield chunk
        if digest.hexdigest() != part.sha256:
            raise UploadIncomplete(
                f"The part {part.id!r} was damaged in the store; send it again.", param="part_ids"
            )
    if md5 and whole.hexdigest() != md5.lower():
        raise UploadIncomplete("The md5 of the file is another one.", param="md5")


def _update(hashes: Sequence[hashlib._Hash], chunk: bytes) -> None:
    for one in hashes:
        one.update(chunk)
