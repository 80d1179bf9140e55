"""The connections to model servers: one pool for all of them, closed after 3 s without work."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import aiohttp
from aiohttp.http import HttpProcessingError

from files_api.kit import traces
from files_api.kit.errors import PageFailed
from ocr_api.engines.vllm.body import Body

BROKEN = (aiohttp.ClientError, HttpProcessingError, OSError)
"""What the HTTP client raises where a connection or the HTTP on it fails."""

_CONNECT_SECONDS = 10.0
_IDLE_SECONDS = 3.0
"""uvicorn, and so vLLM, closes a connection that was idle for 5 s; a request that is sent at that
very moment is lost."""


class Wire:
    """Sends requests; used by one event loop.

    Args:
        api_key: bearer key for every server.
    """

    def __init__(self, api_key: str | None) -> None:
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._pool: aiohttp.ClientSession | None = None
        self._single: aiohttp.ClientSession | None = None

    def open(self) -> tuple[aiohttp.ClientSession, aiohttp.ClientSession]:
        """Return the session that keeps connections, and the one that makes a new one each time.

        Neither has a limit: how many pages are asked for at a time is the pipeline's affair.
        """
        if self._pool is None or self._single is None:
            reuse = aiohttp.TraceConfig(trace_config_ctx_factory=SimpleNamespace)
            reuse.on_connection_reuseconn.append(_note_reuse)
            connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_IDLE_SECONDS)
            self._pool = _session(connector, [reuse])
            self._single = _session(aiohttp.TCPConnector(limit=0, force_close=True), [])
        return self._pool, self._single

    async def post(
        self, url: str, body: Sequence[bytes], request_id: str
    ) -> aiohttp.ClientResponse:
        """Return the head of the answer; the caller closes it.

        A request on a kept connection that ends before any answer is sent once more on a new
        one: the server had closed it while the request was on its way. The trace that it belongs
        to goes with it (`files_api.kit.traces`).

        Args:
            url: of the endpoint.
            body: JSON, in parts.
            request_id: names the request in the server's log; empty: no name.

        Raises:
            aiohttp.ClientError, OSError: no answer.
            ValueError: no request can be made of the URL or the key.
        """
        pool, single = self.open()
        headers = self._headers | traces.current().headers()
        if request_id:
            headers["X-Request-Id"] = request_id
        sent = SimpleNamespace(reused=False)
        try:
            return await pool.post(
                url,
                data=Body(body),
                headers=headers,
                allow_redirects=False,
                trace_request_ctx=sent,
            )
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            if not sent.reused:
                raise
        return await single.post(url, data=Body(body), headers=headers, allow_redirects=False)

    async def get(self, url: str, *, keep: bool = False) -> aiohttp.ClientResponse:
        """Return the head of the answer to a GET, as `post` does.

        It comes on a new connection; with ``keep``, on a kept one, which may have ended.
        """
        session = self.open()[0 if keep else 1]
        return await session.get(url, headers=self._headers, allow_redirects=False)

    async def close(self) -> None:
        """Close every connection, those in use too; a later request opens anew."""
        sessions = (self._pool, self._single)
        self._pool = self._single = None
        for session in sessions:
            if session is not None:
                await session.close()


async def whole(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """Return the body of an answer.

    Raises:
        PageFailed: it has more bytes than the limit.
        aiohttp.ClientError, OSError: it broke off.
    """
    body = bytearray()
    while data := await response.content.readany():
        body += data
        if len(body) > limit:
            raise PageFailed("The answer of the model's server is too large.")
    return bytes(body)


def _session(
    connector: aiohttp.TCPConnector, traces: list[aiohttp.TraceConfig]
) -> aiohttp.ClientSession:
    # No time limit here: the card's covers the whole page. No proxy variables, no netrc, no
    # cookies, no compression: bytes of text on a fast network.
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"Accept-Encoding": "identity"},
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS),
        auto_decompress=False,
        trust_env=False,
        trace_configs=traces,
    )


async def _note_reuse(
    session: aiohttp.ClientSession,
    context: SimpleNamespace,
    params: aiohttp.TraceConnectionReuseconnParams,
) -> None:
    del session, params
    if context.trace_request_ctx is not None:
        context.trace_request_ctx.reused = True
