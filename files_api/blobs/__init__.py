"""The street of blob stores: where the bytes of files lie. The URL's scheme names the leaf.

A leaf is a file with one class that implements `BlobStore`. Keys are made by us, never from
what a client sent.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

from files_api.kit import named

_KEY = re.compile(r"[a-z0-9][a-z0-9-]{0,63}(?:/[a-z0-9][a-z0-9-]{0,63}){0,3}")


class BlobMissing(KeyError):
    """There is no blob under this key."""


class BlobExists(KeyError):
    """There is a blob under this key already; blobs never change."""


@dataclass(frozen=True, slots=True)
class StoredBlob:
    """A blob that is in the store."""

    key: str
    size: int
    """Bytes."""
    modified: float
    """When it was published, in unix seconds, by the store's clock."""


class BlobStore(ABC):
    """Keeps blobs: written once, read often, deleted. Every method may be called concurrently.

    All methods raise `StorageUnavailable` when the store does not answer and `StorageFull` when
    it has no room; a malformed key is a `ValueError`.
    """

    makes_copies: ClassVar[bool] = False
    """What `local` gives is a copy, as large as the blob."""

    @abstractmethod
    def __init__(self, url: str) -> None:
        """Keep the store's URL; touch nothing before the first use."""

    @abstractmethod
    async def put(self, key: str, chunks: AsyncIterator[bytes]) -> None:
        """Write a blob. On return it is durable; before, nobody sees it.

        When ``chunks`` raises or the caller is cancelled, nothing is left.

        Raises:
            BlobExists: the key is taken; the blob under it is untouched.
        """

    @abstractmethod
    def read(self, key: str, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        """Yield a blob's bytes from offset ``start`` to before ``stop``, or to its end.

        In chunks of at most 1 MiB; a range beyond the end yields what there is.

        Raises:
            BlobMissing: at the first step.
        """

    @abstractmethod
    def local(self, key: str) -> AbstractAsyncContextManager[Path]:
        """Give the blob as a file on this machine's disk, only for reading, inside the block.

        Raises:
            BlobMissing: there is no such blob.
        """

    @abstractmethod
    async def delete(self, key: str) -> None:
        """Delete a blob; one that is not there is fine."""

    @abstractmethod
    async def check(self) -> None:
        """Try whether the store takes a blob now."""

    @abstractmethod
    def blobs(self) -> AsyncIterator[StoredBlob]:
        """Yield every blob there is, in any order; such as come or go meanwhile may be missing."""

    @abstractmethod
    async def sweep(self) -> int:
        """Remove what aborted writes of dead processes left; return how many."""

    @abstractmethod
    async def presign(
        self, key: str, seconds: int, *, filename: str, media_type: str
    ) -> str | None:
        """Return a link with which anyone can download the blob from the store itself.

        Args:
            key: the blob; whether it is there is not looked at.
            seconds: how long the link is valid.
            filename: what a browser saves it as; cleaned.
            media_type: what the answer's Content-Type says.

        Returns:
            The link; None where the store has no such links.
        """

    async def close(self) -> None:  # noqa: B027 - most stores hold nothing open
        """Let go of connections."""


def check_key(key: str) -> str:
    """Return the key.

    Raises:
        ValueError: it is not one to four segments of small letters, digits and hyphens.
    """
    if not _KEY.fullmatch(key):
        raise ValueError("malformed blob key")
    return key


def open_store(url: str) -> BlobStore:
    """Return the store at a URL; its scheme is the leaf's file name.

    Raises:
        UnknownLeafError: no leaf has this name; the message lists those that exist.
    """
    return named.leaf(__name__, urlsplit(url).scheme, BlobStore)(url)  # type: ignore[type-abstract]
