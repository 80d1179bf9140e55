"""Large uploads in parts, as OpenAI's clients send them: open, add, complete, cancel."""

from __future__ import annotations

from files_api.blobs import BlobStore
from files_api.files import Files
from files_api.kit.db import Database
from files_api.quota import Quota


class Uploads:
    """Takes files in parts; nothing is visible until an upload is completed."""

    def __init__(
        self,
        database: Database,
        blobs: BlobStore,
        files: Files,
        quota: Quota,
        max_bytes: int,
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._files = files
        self._quota = quota
        self._max_bytes = max_bytes

    async def expire(self) -> int:
        """End the uploads whose time has passed, and remove their parts; return how many."""
        return 0
