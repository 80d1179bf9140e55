"""Bytes of a file as they come: counted, hashed, looked at, and not held."""

from __future__ import annotations

from collections.abc import AsyncIterator
from hashlib import sha256

from files_api.kit import sniff
from files_api.kit.errors import TooLarge


class Meter:
    """Counts and hashes bytes that pass, and keeps the head."""

    def __init__(self, most: int) -> None:
        """Take how many bytes may pass."""
        self.size = 0
        self._most = most
        self._head = b""
        self._hash = sha256()

    async def pass_through(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Yield the chunks.

        Raises:
            TooLarge: more bytes came than may pass.
        """
        async for chunk in chunks:
            self.size += len(chunk)
            if self.size > self._most:
                raise TooLarge(f"The file is larger than {self._most} bytes.", param="file")
            if len(self._head) < sniff.HEAD_BYTES:
                self._head += chunk[: sniff.HEAD_BYTES - len(self._head)]
            self._hash.update(chunk)
            yield chunk

    def sha256(self) -> str:
        """Return the hash of what passed, in hexadecimal."""
        return self._hash.hexdigest()

    def media_type(self) -> str:
        """Return what the content looks like."""
        return sniff.guess(self._head)
