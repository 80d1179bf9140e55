"""How a server ends: requests see it coming, and what they use outlives them."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from files_api.kit.db import UnfitDatabase

LAST_SECONDS = 5.0
"""Longest wait for requests that were cancelled: they say so, end what they began, and count it."""


class Ending:
    """Whether the server was told to end; requests find it in the ``ending`` of their state."""

    def __init__(self) -> None:
        self.begun = False


class Outlived:
    """The application, whose end (its lifespan's) comes after that of all requests.

    Why: uvicorn cancels requests and ends the application at the same time. Then they have no
    database any more, and the loop stops before they have answered.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._requests: set[asyncio.Task[Any]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or go through the lifespan."""
        if scope["type"] == "lifespan":
            await self._live(scope, partial(self._told, receive), send)
            return
        task = asyncio.current_task()
        if task is not None:
            self._requests.add(task)
            task.add_done_callback(self._requests.discard)
        await self._app(scope, receive, send)

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Go through the lifespan; a database that is unfit is told without a traceback.

        The log says in one line what is wrong with it.
        """
        failed: list[Message] = []

        async def send_later(message: Message) -> None:
            if message["type"] == "lifespan.startup.failed":
                failed.append(message)
            else:
                await send(message)

        try:
            await self._app(scope, receive, send_later)
        except UnfitDatabase:
            failed = [{"type": "lifespan.startup.failed", "message": ""}]
            raise
        finally:
            for message in failed:
                await send(message)

    async def _told(self, receive: Receive) -> Message:
        """Return what comes next; the end only when no request is left, or they take too long."""
        message = await receive()
        if message["type"] == "lifespan.shutdown" and self._requests:
            await asyncio.wait(self._requests, timeout=LAST_SECONDS)
        return message
