"""Files that another process deleted while this one reads them.

A deletion tells the requests of its own process at once. Where the files API and the OCR APIs are
processes of their own, or several of one kind, the database tells the others.
"""

from __future__ import annotations

import asyncio
import logging
import time

from files_api.files import known
from files_api.kit.db import Database
from files_api.kit.observe import log
from ocr_api.pipeline import Pipeline

EVERY = 2.0
"""Seconds between two looks; a process that reads no stored file asks nothing."""


class Deletions:
    """Ends what is read of files that are gone."""

    def __init__(self, database: Database, pipeline: Pipeline, every: float = EVERY) -> None:
        """Take where files are known, and who reads them."""
        self._database = database
        self._pipeline = pipeline
        self._every = every
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Look from now on; with SQLite there is no other process."""
        if not self._database.is_sqlite:
            self._task = asyncio.create_task(self._watch(), name="deletions")

    async def close(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def look(self) -> None:
        """End the requests whose file is gone by now.

        Raises:
            StorageUnavailable: the database does not answer.
        """
        if not (reading := self._pipeline.files()):
            return
        for file_id in reading - await known.alive(self._database, reading, time.time()):
            await self._pipeline.file_gone(None, file_id)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._every)
            try:
                await self.look()
            except Exception as error:  # noqa: BLE001 - the watch must live
                why = type(error).__name__
                log(__name__, "deletions_unknown", level=logging.WARNING, why=why)
