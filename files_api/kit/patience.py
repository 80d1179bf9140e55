"""How long we wait for a request's body: for its next piece, and for all of it.

The waiting starts with some seconds of patience. Waiting uses them up, bytes that come give them
back, and there are never more than at the start. So no pause is longer than that, and over any
longer time the body comes at `LEAST_RATE` at least; else a client could send a byte now and then
for ever. Apache's mod_reqtimeout grants time by bytes in the same way (``MinRate=500``).

More is asked of a body that takes long: the whole of it has a minute, and a second more for each
`FAIR_RATE` bytes that came. Half a gigabyte at `LEAST_RATE` would hold one of the places for
uploads for twelve days.

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


FIRST_SECONDS = 60.0
"""How long a body may take before `FAIR_RATE` is asked of it."""
FAIR_RATE = 8 * 1024
"""Bytes in a second, on average of the whole body: a choice of ours, 64 kbit/s.

It is what one ISDN or GPRS line carries: any person's line sends more. At this rate the largest
JSON body takes three hours.
"""


class Patience:
    """What is left of the seconds that we wait for a client."""

    def __init__(self, seconds: float, rate: float = LEAST_RATE) -> None:
        """Take the patience at the start, which is the most, and the bytes that earn a second."""
        self._most = self._pause = seconds
        self._whole = max(FIRST_SECONDS, seconds)
        self._rate = rate

    @property
    def left(self) -> float:
        """How many seconds we wait now: for the next piece, and within what the whole has left."""
        return min(self._pause, self._whole)

    def note(self, waited: float, came: int) -> None:
        """Take account of a wait of so many seconds, at whose end so many bytes came."""
        self._pause = min(self._most, max(0.0, self._pause - waited) + came / self._rate)
        self._whole = max(0.0, self._whole - waited) + came / FAIR_RATE


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
