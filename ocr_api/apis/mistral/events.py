"""Server-sent events (WHATWG HTML, section 9.2): an answer that is sent while it is made.

Nothing is held but the event that is being sent: where a client reads slowly, sending waits, so
the pages do, and no more of the document is read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import TracebackType

from starlette.types import Message, Send

BEAT_SECONDS = 15.0
"""Of silence before a comment is sent. The HTML standard (9.2.7) recommends "every 15 seconds or
so", since proxies close connections on which nothing comes."""
_PING = b": ping\n\n"
_HEADERS = {
    "Content-Type": "text/event-stream",  # always UTF-8
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # nginx would hold the events back
}


class Events:
    """Sends events as one HTTP answer, and comments while there is none; a context."""

    def __init__(self, send: Send, beat: float = BEAT_SECONDS) -> None:
        """Take what sends ASGI messages, and the seconds of silence before a comment."""
        self._send = send
        self._beat = beat
        self._turn = asyncio.Lock()
        self._sent = 0.0
        self._head: Message | None = None  # until it was sent
        self._beating: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Events:
        """Send nothing yet."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Send no more comments; the answer ends only by `end`."""
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.gather(self._beating, return_exceptions=True)

    @property
    def begun(self) -> bool:
        """Whether the answer is a stream: what goes wrong from then on is an event."""
        return self._beating is not None

    async def begin(self, headers: Mapping[str, str]) -> None:
        """Send status 200 with these headers and those of a stream.

        Where this is cancelled while it waits for room, they go before the next event.
        """
        pairs = {**_HEADERS, **headers}.items()
        raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in pairs]
        self._head = {"type": "http.response.start", "status": 200, "headers": raw}
        self._sent = asyncio.get_running_loop().time()
        self._beating = asyncio.create_task(self._keep_beating())
        async with self._turn:
            await self._begin()

    async def send(self, event: str, data: bytes) -> None:
        """Send an event and wait until the connection has room for more.

        Args:
            event: its name.
            data: JSON without line breaks.
        """
        async with self._turn:
            await self._put(b"event: %s\ndata: %s\n\n" % (event.encode("ascii"), data))

    async def end(self) -> None:
        """Send the end of the answer."""
        async with self._turn:
            await self._put(b"", more=False)

    async def _begin(self) -> None:
        if self._head is not None:
            await self._send(self._head)
            self._head = None

    async def _put(self, text: bytes, *, more: bool = True) -> None:
        await self._begin()
        await self._send({"type": "http.response.body", "body": text, "more_body": more})
        self._sent = asyncio.get_running_loop().time()

    async def _keep_beating(self) -> None:
        clock = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(max(0.0, self._sent + self._beat - clock.time()))
            async with self._turn:
                if clock.time() >= self._sent + self._beat:
                    await self._put(_PING)
