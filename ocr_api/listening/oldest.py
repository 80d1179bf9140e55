"""HTTP/1.0: an answer of unknown length ends with its connection.

Why: uvicorn sends such an answer in chunks, which a client of HTTP/1.0 need not understand and
must not be sent (RFC 9112, 6.1). The default of nginx is to ask servers behind it by HTTP/1.0.
"""

from __future__ import annotations

import sys

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle


class UntilClose:
    """The application, for one request of HTTP/1.0; uvicorn closes after its answer by itself."""

    def __init__(self, app: ASGIApp, cycle: RequestResponseCycle) -> None:
        """Take what answers, and uvicorn's state of the answer."""
        self._app = app
        self._cycle = cycle
        self._open = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer; a body without a length is sent as it is."""

        async def plain(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._open = not any(
                    name.lower() == b"content-length" for name, _ in message.get("headers", ())
                )
                if self._open:
                    self._cycle.chunked_encoding = False
            elif self._open:
                # uvicorn counts what is left of a body: none is at its end, anything before.
                more = message.get("more_body", False)
                size = len(message.get("body", b""))
                self._cycle.expected_content_length = sys.maxsize if more else size
            await send(message)

        await self._app(scope, receive, plain)
