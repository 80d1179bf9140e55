"""A connection's transport, as uvicorn and a request's cycle should see it."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable

from uvicorn.protocols.http.flow_control import FlowControl


class Flow(FlowControl):
    """Reads no further while requests wait that hold much, whoever asks for it."""

    def __init__(self, transport: asyncio.Transport, full: Callable[[], bool]) -> None:
        super().__init__(transport)
        self._full = full

    def resume_reading(self) -> None:
        """Read on, unless enough was read ahead."""
        if not self._full():
            super().resume_reading()


class Exit:
    """The connection as a request's cycle sees it: it leaves the closing to the protocol."""

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        self.write = transport.write
        self.is_closing = transport.is_closing
        self.close = close


def acknowledged(transport: asyncio.Transport) -> int:
    """Return how many bytes the client's system has taken; 0 where nobody tells.

    What the kernel holds for the client may be megabytes: for minutes it may take nothing from us
    while a slow client reads. (``tcpi_bytes_acked`` of ``struct tcp_info``, Linux 4.1.)
    """
    try:
        info = transport.get_extra_info("socket").getsockopt(
            socket.IPPROTO_TCP, socket.TCP_INFO, 128
        )
        return int(struct.unpack_from("=Q", info, 120)[0])
    except (AttributeError, OSError, struct.error):
        return 0
