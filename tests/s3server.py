"""An S3 server over HTTP for tests (moto, in a child process), and a door to it that fails.

moto keeps everything in memory and takes any signature; those are judged in ``tests/s3``.
"""

from __future__ import annotations

import asyncio
import http.client
import io
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import parse_qs, urlsplit

from aiohttp import ClientResponse, ClientSession, web

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "recto-tests",
    "AWS_SECRET_ACCESS_KEY": "a-secret-of-the-tests",
}
REGION = "eu-west-1"
# Ends with the process that started it, however that ends: its standard input closes then.
_SERVE = """
import os, sys, threading
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
from moto.server import main
main(["-H", "127.0.0.1", "-p", sys.argv[1]])
"""


class S3Server:
    """The server; it can be killed, started again (empty), halted and woken."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = int(free.getsockname()[1])
        self._process: subprocess.Popen[bytes] | None = None
        self._buckets = itertools.count()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Start it and wait until it answers."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", _SERVE, str(self.port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=clean,
        )
        deadline = time.monotonic() + 60
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("moto's server did not start")
            time.sleep(0.02)

    def kill(self) -> None:
        """Kill it; all that it held is gone."""
        if self._process and self._process.stdin:
            self._process.kill()
            self._process.wait()
            self._process.stdin.close()
            self._process = None

    def halt(self) -> None:
        """Let it take connections and answer none."""
        assert self._process
        self._process.send_signal(signal.SIGSTOP)

    def wake(self) -> None:
        assert self._process
        self._process.send_signal(signal.SIGCONT)

    def new_bucket(self, name: str | None = None) -> str:
        """Make a bucket; return the URL of a store with a prefix in it."""
        name = name or f"recto-{next(self._buckets)}"
        assert self._request("PUT", f"/{name}") == 200
        return f"s3://{name}/some/prefix?endpoint={self.endpoint}&region={REGION}"

    def _answers(self) -> bool:
        with suppress(OSError):
            return self._request("GET", "/moto-api/") == 200
        return False

    def _request(self, method: str, path: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path)
            return connection.getresponse().status
        finally:
            connection.close()


def client(url: str) -> Any:
    """Return boto3's client for the server of a store's URL: somebody else's view of it."""
    import boto3  # noqa: PLC0415 - slow to import, and few tests need it

    options = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
    return boto3.client(
        "s3", endpoint_url=options.get("endpoint"), region_name=options.get("region")
    )


def open_uploads(url: str) -> list[str]:
    """Return the keys of multipart uploads that are begun and neither completed nor aborted."""
    place = urlsplit(url)
    where = {"Bucket": place.netloc, "Prefix": place.path.strip("/")}
    uploads = client(url).list_multipart_uploads(**where).get("Uploads", [])
    return [upload["Key"] for upload in uploads]


def objects(url: str) -> list[str]:
    """Return the keys of all objects under a store's prefix; for 1,000 at most."""
    place = urlsplit(url)
    where = {"Bucket": place.netloc, "Prefix": place.path.strip("/")}
    return [each["Key"] for each in client(url).list_objects_v2(**where).get("Contents", [])]


Outcome = Literal["pass", "refuse", "lose", "cut", "slow"] | tuple[int, str]
"""What becomes of a request: it passes; it is refused with 500; it is done, but its answer is
lost; the second half of its answer is lost; the answer begins and then goes on with a space now
and then for two seconds, as Amazon's do; it is refused with this status and S3 error code."""


class Door:
    """Requests on their way to the server, and what becomes of each."""

    def __init__(self, endpoint: str) -> None:
        self._inside = endpoint
        self.endpoint = ""
        self.seen: list[str] = []
        """Method, path and query of each request, in the order they came."""
        self.fate: Callable[[web.BaseRequest], Outcome] = lambda _: "pass"

    def url(self, inner: str) -> str:
        """Return a store's URL with this door in place of the server."""
        return inner.replace(self._inside, self.endpoint)

    async def answer(self, request: web.BaseRequest, session: ClientSession) -> web.StreamResponse:
        body = await request.content.read()  # request.read() has a limit
        self.seen.append(f"{request.method} {request.rel_url}")
        fate = self.fate(request)
        if fate == "refuse":
            return web.Response(status=500)
        if isinstance(fate, tuple):
            status, code = fate
            text = f"<Error><Code>{code}</Code></Error>"
            return web.Response(status=status, text=text, content_type="application/xml")
        target = self._inside + request.raw_path
        headers = {name: value for name, value in request.headers.items() if name != "Host"}
        async with session.request(
            request.method, target, data=io.BytesIO(body) if body else None, headers=headers
        ) as inner:
            data = await inner.read()
            return await _pass_on(request, inner, data, fate)


async def _pass_on(
    request: web.BaseRequest, inner: ClientResponse, data: bytes, fate: Outcome
) -> web.StreamResponse:
    dropped = {"transfer-encoding", "connection", "date", "server"}
    if fate == "slow":
        dropped |= {"content-length"}
    headers = {n: v for n, v in inner.headers.items() if n.lower() not in dropped}
    answer = web.StreamResponse(status=inner.status, headers=headers)
    with suppress(ConnectionError):  # the client left, or is left
        if fate != "lose":
            await answer.prepare(request)
            if fate == "slow":
                declaration, _, data = data.partition(b"\n")
                await answer.write(declaration)
                for _ in range(20):
                    await answer.write(b" ")
                    await asyncio.sleep(0.1)
            await answer.write(data[: len(data) // 2] if fate == "cut" else data)
        if fate in {"lose", "cut"} and request.transport:
            request.transport.close()
    return answer


@asynccontextmanager
async def door(endpoint: str) -> AsyncIterator[Door]:
    """Open a door to the server at an endpoint; it stays open inside the block."""
    made = Door(endpoint)
    async with ClientSession(auto_decompress=False) as session:

        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            return await made.answer(request, session)

        runner = web.ServerRunner(web.Server(handle))
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        made.endpoint = f"http://{host}:{port}"
        try:
            yield made
        finally:
            await runner.cleanup()
            await asyncio.sleep(0)
