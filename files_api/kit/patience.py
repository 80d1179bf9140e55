"""How long we wait for a request's body: for its next piece, and for all of it.

The waiting starts with some seconds of patience. Waiting uses them up, bytes that come give them
back, and there are never more than at the start. So no pause is longer than that, and over any
longer time the body comes at `LEAST_RATE` at least; else a client could send a byte now and then
for ever. Apache's mod_reqtimeout grants time by bytes in the same way (``MinRate=500``), but
without an upper bound, so that a large body could earn hours.

Only our waiting counts: while we store what has come, the client may do nothing.
"""

from __future__ import annotations

import asyncio

from starlette.types import Message, Receive

from files_api.kit.errors import BodyTimeout

BODY_SECONDS = 30.0
"""Patience where the settings say nothing."""
LEAST_RATE = 500
"""Bytes in a second; the default of Apache's mod_reqtimeout (``body=20,MinRate=500``)."""


class Patience:
    """What is left of the seconds that we wait for a client."""

    def __init__(self, seconds: float, rate: float = LEAST_RATE) -> None:
        """Take the patience at the start, which is the most, and the bytes that earn a second."""
        self._most = self.left = seconds
        self._rate = rate

    def note(self, waited: float, came: int) -> None:
        """Take account of a wait of so many seconds, at whose end so many bytes came."""
        self.left = min(self._most, max(0.0, self.left - waited) + came / self._rate)


class PatientBody:
    """The body of one request, received under a deadline."""

    def __init__(self, receive: Receive, seconds: float) -> None:
        """Take what receives ASGI messages, and the patience."""
        self._receive = receive
        self._patience = Patience(seconds)
        self._ended = False
        self.late = False
        """Whether the body came too slowly: the rest of it is not waited for."""

    async def receive(self) -> Message:
        """Receive the next message; what follows the body (the hang-up) may take for ever.

        Raises:
            BodyTimeout: the client sent nothing for too long, or too little.
        """
        if self._ended:
            return await self._receive()
        if self.late:
            raise BodyTimeout
        clock = asyncio.get_running_loop()
        begun = clock.time()
        try:
            async with asyncio.timeout(self._patience.left):
                message = await self._receive()
        except TimeoutError as error:
            self.late = True
            raise BodyTimeout from error
        self._patience.note(clock.time() - begun, len(message.get("body", b"")))
        self._ended = not message.get("more_body", False)
        return message
