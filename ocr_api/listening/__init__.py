"""How connections are served: uvicorn, with the deadlines and bounds that it has not.

Why: uvicorn waits for ever for the rest of a request's headers, reads headers of any length, and
closes a connection only when its client has taken everything. Whoever opens connections and does
nothing with them would take all file descriptors. It also takes any number of requests ahead of
their answers, and takes the body of a request that asks for an upgrade for the next request. A
proxy in front may see to all this; nobody can rely on there being one. (The body's deadline is
`files_api.kit.patience`.)
"""

from __future__ import annotations

import asyncio
import sys
from types import FrameType
from typing import Any

import httptools
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from ocr_api.listening.ending import Ending, Outlived
from ocr_api.listening.files import raise_file_limit
from ocr_api.listening.oldest import UntilClose
from ocr_api.listening.transport import Exit, Flow, acknowledged

HEADER_SECONDS = 10.0
"""From a connection, or the first byte of its next request, to the end of the headers."""
UNREAD_SECONDS = 60.0
"""A client that takes nothing of what waits for it is cut off then, as nginx's ``send_timeout``
does."""
LINGER_SECONDS = 30.0
"""A body that nobody wants any more is read so long, as nginx's ``lingering_time`` does: a client
that is still sending when its connection is closed may not see its answer."""
MAX_HEAD_BYTES = 64 * 1024
"""Of all headers with the request line, and of what stands between the pieces of a body."""
MAX_LINE_BYTES = 8 * 1024
"""Of the request's target; RFC 9112 (3) recommends to take 8,000 at least."""
MAX_WAITING = 8
"""Requests that came before the answer to the one before them (pipelining)."""
BACKLOG = 2048
"""Connections that wait to be accepted."""
DRAIN_SECONDS = 30
"""From the signal to end until requests under way are cancelled."""

_MOST_CONNECTIONS = 8192
_OTHER_FILES = 256
"""Descriptors that are kept for the database, blobs, pipes to children."""

_REFUSALS = {
    400: b"HTTP/1.1 400 Bad Request",
    414: b"HTTP/1.1 414 URI Too Long",
    431: b"HTTP/1.1 431 Request Header Fields Too Large",
    503: b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1",
}


class Config(uvicorn.Config):
    """uvicorn's configuration with what our protocol needs; passed on to workers as it is."""

    def __init__(
        self,
        service: ASGIApp | str,
        header_seconds: float = HEADER_SECONDS,
        unread_seconds: float = UNREAD_SECONDS,
        max_connections: int = _MOST_CONNECTIONS,
        drain_seconds: int = DRAIN_SECONDS,
        **more: Any,
    ) -> None:
        """Take the application or its import name, the deadlines, the most open connections.

        ``drain_seconds``: how long requests under way may take when the server is told to end; it
        takes no new ones then, and cancels what is left.
        """
        self.ending = Ending()
        self.header_seconds = header_seconds
        self.unread_seconds = unread_seconds
        self.max_connections = max_connections
        super().__init__(
            service,
            loop="uvloop" if sys.platform != "win32" else "asyncio",
            http=GuardedProtocol,
            ws="none",
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_graceful_shutdown=drain_seconds,
            backlog=BACKLOG,
            **more,
        )

    def load(self) -> None:
        """Import the application, in the process that serves it."""
        super().load()
        self.loaded_app = Outlived(self.loaded_app)


def configure(service: ASGIApp | str, header_seconds: float, **more: Any) -> Config:
    """Return the configuration of a server; let this process and its workers open many files."""
    most = max(16, raise_file_limit() - _OTHER_FILES)
    return Config(service, header_seconds, max_connections=min(most, _MOST_CONNECTIONS), **more)


class Server(uvicorn.Server):
    """uvicorn's server, which says at once that it was told to end: it takes requests a bit longer.

    Of several processes each has uvicorn's own, and says so when it closes its connections.
    """

    config: Config

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Note the signal, then do as uvicorn does."""
        self.config.ending.begun = True
        super().handle_exit(sig, frame)


class GuardedProtocol(HttpToolsProtocol):
    """One connection. Whenever it waits for the client, a deadline is running.

    - for headers: from the connection's begin, or from the first byte after an answer;
    - for a body: while the application reads it, the application's; once it has answered, ours;
    - for the client to take what was written: until it has taken everything.

    Between requests uvicorn's own keep-alive time holds until a byte comes.
    A client that ends its side of the connection has left: half-closing looks the same.
    """

    config: Config

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._waiting: asyncio.TimerHandle | None = None  # for headers, or an unwanted body
        self._writing: asyncio.TimerHandle | None = None  # for the client to read
        self._unwritten = self._acked = 0
        self._taken = False
        self._in_body = False
        self._silent = 0  # bytes since something came of them
        self._ahead = 0  # bytes of requests that wait
        self._deaf = False  # whether what comes is dropped
        self._refusal: int | None = None
        self._answering: RequestResponseCycle | None = None
        self.app_state["ending"] = self.config.ending

    # --- the connection ---------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request, unless there are too many connections."""
        super().connection_made(transport)
        self.flow = Flow(transport, self._full)
        if len(self.connections) > self.config.max_connections:
            self._refuse(503)
        else:
            self._wait(self.config.header_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of everything, and tell the requests; uvicorn tells only the newest."""
        for cycle in (self._answering, *(cycle for cycle, _ in self.pipeline)):
            if cycle and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
        self.pipeline.clear()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()  # uvicorn leaves it running after an error
        self._stop_waiting()
        if self._writing:
            self._writing.cancel()
            self._writing = None

    def data_received(self, data: bytes) -> None:
        """Take what came; see to it that a deadline runs when it leaves us waiting."""
        self._unset_keepalive_if_required()
        if not self._hears():
            return
        self._silent += len(data)
        try:
            self._parse(data)
        except httptools.HttpParserError:
            self._refuse(self._refusal or 400)
        if not self._hears():
            return
        if self._silent > MAX_HEAD_BYTES:
            self._refuse(431)
        elif self._idle() and not self._in_body and self._waiting is None:
            self._wait(self.config.header_seconds)
        if self.pipeline:
            self.flow.resume_reading()  # that the client left is seen only by reading

    def _parse(self, data: bytes) -> None:
        """Feed the parser; have a request that asks for an upgrade read as one that does not.

        A server may ignore the wish (RFC 9110, 7.8). But the parser ends with the headers then:
        its successor gets them again, without the wish, and what follows them.

        Raises:
            HttpParserError: what came is no HTTP, or is not to be read further.
        """
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as stop:
                headers = [header for header in self.headers if header[0] != b"upgrade"]
                if len(headers) == len(self.headers):  # CONNECT is an upgrade as it is
                    raise httptools.HttpParserError("no tunnels") from stop
                version = self.parser.get_http_version().encode()
                lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, version)]
                lines += [name + b": " + value for name, value in headers]
                data = b"\r\n".join(lines) + b"\r\n\r\n" + data[stop.args[0] :]
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn
            else:
                return

    def _hears(self) -> bool:
        """Tell whether what comes is taken."""
        return not (self._deaf or self.transport.is_closing())

    def _full(self) -> bool:
        """Tell whether enough was read ahead."""
        return bool(self.pipeline) and self._ahead > HIGH_WATER_LIMIT and not self._deaf

    def _idle(self) -> bool:
        """Tell whether no request is being answered."""
        # uvicorn's type leaves out that there is none at first.
        return self.cycle is None or self.cycle.response_complete  # type: ignore[redundant-expr]

    # --- what the parser finds --------------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; one that follows a body (a trailer) changes nothing any more."""
        if not self._in_body:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Begin to answer, unless the headers are too long, or too many requests wait."""
        if self.parser.should_upgrade():
            return
        self._silent = 0
        size = len(self.url) + sum(len(n) + len(v) + 4 for n, v in self.headers)
        if len(self.url) > MAX_LINE_BYTES:
            self._refusal = 414
        elif size > MAX_HEAD_BYTES:
            self._refusal = 431
        if self._refusal:
            raise ValueError("the headers are too long")  # ends the parser's work
        if not self._idle() and (len(self.pipeline) >= MAX_WAITING or not self.cycle.keep_alive):
            raise ValueError("there is no answer to more requests")
        self._stop_waiting()
        self._in_body = True
        super().on_headers_complete()
        exit_ = Exit(self.transport, self._leave)
        self.cycle.transport = exit_  # type: ignore[assignment]
        if self.pipeline:
            self._ahead += size

    def on_body(self, body: bytes) -> None:
        """Take a piece of a body."""
        self._silent = 0
        if self.pipeline:
            self._ahead += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note a request's end."""
        if self.parser.should_upgrade():
            return
        self._silent = 0
        self._in_body = False
        self._stop_waiting()
        super().on_message_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """Begin to answer a request, the first or one that waited."""
        self._answering = cycle
        if not self.pipeline:
            self._ahead = 0
        if cycle.scope["http_version"] == "1.0":
            app = UntilClose(app, cycle)
        super()._start_asgi_task(cycle, app)

    # --- the end ----------------------------------------------------------------------------------

    def shutdown(self) -> None:
        """Close when the request under way is answered, or at once where there is none."""
        self.config.ending.begun = True
        super().shutdown()

    def _refuse(self, status: int) -> None:
        """Answer without the application, and close.

        While requests are being answered nothing can be said about the next one: they are answered
        and nothing more is heard. In a body there is nothing to wait for.
        """
        self._stop_waiting()
        if not self._in_body and not self._idle():
            self._deaf = True
            self.cycle.keep_alive = False
            self.flow.resume_reading()
            return
        if not self._in_body:
            lines = (
                _REFUSALS[status],
                *(name + b": " + value for name, value in self.server_state.default_headers),
                b"content-length: 0",
                b"connection: close",
            )
            self.transport.write(b"\r\n".join(lines) + b"\r\n\r\n")
        self._close()

    def _leave(self) -> None:
        """Close after the last answer, or when an application failed.

        A client that may still be sending would lose its answer. So it gets the answer and the end,
        and what it sends is dropped until it closes, or for some seconds (RFC 9112, 9.6).
        """
        answered = self._answering is not None and self._answering.response_complete
        if answered and (self._deaf or (self._in_body and self._idle())):
            self._deaf = True
            self.pipeline.clear()
            if not self.transport.is_closing():
                self.transport.write_eof()
        else:
            self.transport.close()

    # --- deadlines --------------------------------------------------------------------------------

    def on_response_complete(self) -> None:
        """Wait for what is left of the request, and for the client to take its answer."""
        super().on_response_complete()
        self._watch_writing()
        if (self._in_body or self._deaf) and self._idle() and not self.transport.is_closing():
            self._wait(LINGER_SECONDS)

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection that was not used again."""
        self._close()

    def _wait(self, seconds: float) -> None:
        self._stop_waiting()
        self._waiting = self.loop.call_later(seconds, self._waited)

    def _stop_waiting(self) -> None:
        if self._waiting:
            self._waiting.cancel()
            self._waiting = None

    def _waited(self) -> None:
        self._waiting = None
        self._close()

    def _close(self) -> None:
        """Close when the client has taken what was written, or takes nothing of it any more."""
        self.transport.close()
        self._watch_writing()

    def pause_writing(self) -> None:
        """Let the application wait, and see to it that the client reads."""
        super().pause_writing()
        self._watch_writing()

    def resume_writing(self) -> None:
        """Let the application write again."""
        super().resume_writing()
        self._taken = True

    def _watch_writing(self) -> None:
        """Look again later, while anything is unwritten, whether the client took some of it."""
        if self._writing is None and (size := self.transport.get_write_buffer_size()):
            self._unwritten, self._taken = size, False
            self._acked = acknowledged(self.transport)
            self._writing = self.loop.call_later(self.config.unread_seconds, self._look_at_writing)

    def _look_at_writing(self) -> None:
        self._writing = None
        size = self.transport.get_write_buffer_size()
        if size < self._unwritten or self._taken or acknowledged(self.transport) > self._acked:
            self._watch_writing()
        else:
            self.transport.abort()
