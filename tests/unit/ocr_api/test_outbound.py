"""The guarded way out: where it goes, where it does not, and what a fetch may cost."""

from __future__ import annotations

import asyncio
import gzip
import io
import ipaddress
import socket
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from prometheus_client.parser import text_string_to_metric_families

from files_api.kit import metrics
from files_api.kit.errors import AppError, FetchFailed, FetchRefused, TooLarge
from ocr_api.outbound import Outbound, OutboundLimits, names
from ocr_api.outbound.addresses import Refusal, is_public, vet

PUBLIC = "93.184.215.14"
OTHER_PUBLIC = "2606:2800:21f:cb07:6820:80da:af6b:8b2c"
Handler = Callable[[web.Request], Any]

HOSTILE_HOSTS = (
    # Loopback, private, link local and shared addresses.
    *("127.0.0.1", "127.0.0.1.", "127.255.255.254", "0.0.0.0", "10.0.0.1", "172.16.0.1"),
    *("172.31.255.255", "192.168.0.1", "169.254.169.254", "100.64.0.1", "100.100.100.200"),
    *("192.0.0.192", "192.0.2.1", "192.88.99.1", "198.18.0.1", "198.51.100.1", "203.0.113.1"),
    *("224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255", "168.63.129.16"),
    # Legacy IPv4: decimal, octal, hexadecimal, short, mixed, overflowing.
    *("2130706433", "0x7f000001", "0X7F000001", "017700000001", "127.1", "127.0.1", "0x7f.1"),
    *("0177.0.0.1", "0x7f.0x0.0x0.0x1", "127.0.0.0x1", "0", "0x", "00", "2852039166", "1.2.3"),
    *("010.8.8.8", "8.8.8.8.8", "8.8.2056", "256.256.256.256", "4294967297", "127.00.0.1"),
    # The same in other scripts (UTS 46 makes them plain).
    *("１２７.0.0.1", "①②⑦.⓪.⓪.①", "169。254。169。254", "１６９．２５４．１６９．２５４"),
    *("0x７f.1", "ｌｏｃａｌｈｏｓｔ", "loc\u00adalhost", "local\u200bhost"),
    # IPv6.
    *("[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:8.8.8.8]", "[::127.0.0.1]"),
    *("[64:ff9b::7f00:1]", "[64:ff9b::8.8.8.8]", "[64:ff9b:1::1]", "[2002:7f00:1::]"),
    *("[2001:0:7f00:1::]", "[2001:db8::1]", "[fc00::1]", "[fd00:ec2::254]", "[fe80::1]"),
    *("[fec0::1]", "[ff02::1]", "[100::1]", "[3fff::1]", "[fe80::1%25eth0]", "[::1%25lo]"),
    *("[v1.fe80::a]", "[127.0.0.1]", "[dead.beef]", "[::1", "::1", "[]", "[::1].example.com"),
    # Names that mean something only inside.
    *("localhost", "LOCALHOST", "localhost.", "db", "kubernetes", "foo.localhost", "printer.local"),
    *("metadata.google.internal", "api.default.svc", "api.default.svc.cluster.local"),
    *("nas.lan", "router.home.arpa", "localhost.localdomain", "metadata.google.internal."),
    # Names that are none.
    *("", ".", "..", "a..com", ".example.com", "example.com..", "exa%6dple.com", "exa$mple.com"),
    *("127%2e0%2e0%2e1", "example.com,127.0.0.1", "x" * 64 + ".com", "a." * 127 + "com"),
    "xn--\ud800.com",
)
HOSTILE_URLS = (
    *(f"http://{host}/a" for host in HOSTILE_HOSTS),
    # Users, ports, schemes.
    *("http://user@example.com/", "http://user:pass@example.com/", "http://@example.com/"),
    *("http://example.com@127.0.0.1/", "http://127.0.0.1@example.com/", "http://a@b@example.com/"),
    *("http://example.com:22/", "http://example.com:8080/", "https://example.com:6379/"),
    *("http://example.com:0/", "http://example.com:65536/", "http://example.com:80:80/"),
    *("http://example.com:-80/", "http://example.com:+80/", "http://example.com:８０８０/"),
    *("ftp://example.com/", "file:///etc/passwd", "gopher://example.com/", "dict://example.com/"),
    *("data:text/plain,hi", "javascript:alert(1)", "jar:http://example.com!/", "ws://example.com/"),
    *("http:example.com", "http:/example.com", "http:///example.com", "//example.com/"),
    *("example.com", "http://", "https:", "", "http://?x", "http://#x", "http+unix://example.com/"),
    # Characters that parsers disagree about.
    *(
        "http://example.com\\@127.0.0.1/",
        "http://127.0.0.1\\@example.com/",
        "http:\\\\example.com/",
    ),
    *("http://example.com/\r\nHost: x", "http://exa\nmple.com/", "http://exa\tmple.com/"),
    *("http://example.com/\x00", "\x01http://example.com/", "http://example.com/a b"),
    *("http://example.com\u3000/", "http://example.com/\x85", "http://example.com\u2028/"),
    *(
        "http://example.com/\x7f",
        "http://127.0.0.1#@example.com/",
        "http://127.0.0.1?@example.com/",
    ),
    *(
        "http://a℀.example.com/",
        "http://example.com／@127.0.0.1/",
        "http://127.0.0.1;.example.com/",
    ),
    "http://example.com/" + "a" * 8200,
)


@dataclass
class Wire:
    """Stands at the loop's ``sock_connect``: notes each dial, lets only loopback out."""

    dialled: list[tuple[str, int]] = field(default_factory=list)
    stands_for: dict[str, int] = field(default_factory=dict)
    """Public address -> port on loopback that answers in its place."""


@pytest.fixture
async def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    wire, loop = Wire(), asyncio.get_running_loop()
    connect = loop.sock_connect

    async def dial(sock: socket.socket, address: Any) -> None:
        wire.dialled.append((address[0], address[1]))
        if address[0] in wire.stands_for:
            address = ("127.0.0.1", wire.stands_for[address[0]])
        if not ipaddress.ip_address(address[0]).is_loopback:
            raise ConnectionRefusedError("no network in tests")
        await connect(sock, address)

    monkeypatch.setattr(loop, "sock_connect", dial)
    return wire


class Names:
    """A DNS: name -> one list of addresses per lookup, the last one for ever."""

    def __init__(self, **answers: Sequence[Sequence[str]]) -> None:
        self.answers = {f"{name}.example.com": list(each) for name, each in answers.items()}
        self.asked: list[str] = []

    async def __call__(self, host: str, _port: int) -> Sequence[str]:
        self.asked.append(host)
        answers = self.answers.get(host)
        if not answers:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return answers.pop(0) if len(answers) > 1 else answers[0]


@asynccontextmanager
async def way_out(names: Names | None = None, **limits: Any) -> AsyncIterator[Outbound]:
    outbound = Outbound(OutboundLimits(**{"max_bytes": 1_000_000, **limits}), names or Names())
    try:
        yield outbound
    finally:
        await outbound.close()


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[int]:
    """Serve every path on a loopback port."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@asynccontextmanager
async def answering(
    *pieces: bytes, pause: float = 0.0, endless: bool = False
) -> AsyncIterator[int]:
    """Answer each connection with raw bytes, the last piece for ever if endless."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
            while endless:
                await asyncio.sleep(pause)
                writer.write(pieces[-1])
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def failing(outbound: Outbound, url: str) -> AppError:
    with pytest.raises(AppError) as caught:
        await outbound.fetch(url, io.BytesIO())
    return caught.value


def refusals() -> Counter[str]:
    """Return how many fetches this process has refused, by reason."""
    families = text_string_to_metric_families(metrics.page().decode())
    samples = (sample for family in families for sample in family.samples)
    return Counter(
        {
            sample.labels["reason"]: int(sample.value)
            for sample in samples
            if sample.name == "ocr_fetch_refused_total"
        }
    )


async def body(request: web.Request) -> web.Response:
    return web.Response(body=b"%PDF-1.7 body")


async def test_fetches_from_an_allowed_host() -> None:
    async with serving(body) as port, way_out(allowed_hosts=(f"127.0.0.1:{port}",)) as outbound:
        into = io.BytesIO()
        assert await outbound.fetch(f"http://127.0.0.1:{port}/a.pdf", into) == 13
        assert into.getvalue() == b"%PDF-1.7 body"


@pytest.mark.parametrize("allowed", ["localhost", "LOCALHOST", "localhost:{port}"])
async def test_an_allowed_name_needs_no_dot_and_no_public_address(allowed: str) -> None:
    async with serving(body) as port:
        limits = OutboundLimits(1000, allowed_hosts=(allowed.format(port=port),))
        outbound = Outbound(limits)
        try:
            assert await outbound.fetch(f"http://localhost:{port}/", io.BytesIO()) == 13
        finally:
            await outbound.close()


async def test_an_allowed_port_allows_no_other_port(wire: Wire) -> None:
    async with way_out(allowed_hosts=("127.0.0.1:8123",)) as outbound:
        assert isinstance(await failing(outbound, "http://127.0.0.1:8124/"), FetchRefused)
        assert isinstance(await failing(outbound, "http://127.0.0.2:8123/"), FetchRefused)
        assert isinstance(await failing(outbound, "http://x@127.0.0.1:8123/"), FetchRefused)
    assert wire.dialled == []


@pytest.mark.parametrize("port", [0, 65536, 99999])
async def test_a_port_that_does_not_exist_is_refused_on_allowed_hosts_too(port: int) -> None:
    async with way_out(allowed_hosts=("127.0.0.1", "localhost")) as outbound:
        for host in ("127.0.0.1", "localhost"):
            error = await failing(outbound, f"http://{host}:{port}/")
            assert isinstance(error, FetchRefused)
            assert "its port does not exist" in error.message


async def test_tls_is_asked_of_the_name_at_the_vetted_address(wire: Wire) -> None:
    """The server name in the ClientHello (RFC 6066, section 3) is plain text."""
    greetings: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        greetings.append(await reader.read(65536))
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server, way_out(Names(files=[[PUBLIC]])) as outbound:
        wire.stands_for[PUBLIC] = server.sockets[0].getsockname()[1]
        assert isinstance(await failing(outbound, "https://FILES.example.com./"), FetchFailed)
    assert wire.dialled == [(PUBLIC, 443)]
    assert b"files.example.com" in greetings[0]


async def test_dials_the_vetted_address_with_the_name_as_host(wire: Wire) -> None:
    seen: list[web.Request] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(request)
        return web.Response(body=b"x", headers={"Set-Cookie": "a=b"})

    names = Names(files=[[PUBLIC]])
    async with serving(handler) as port, way_out(names) as outbound:
        wire.stands_for[PUBLIC] = port
        for _ in range(2):
            await outbound.fetch("http://FILES.example.com:80/ä%2Fb?sig=a%2fb+c==#f", io.BytesIO())
    assert wire.dialled == [(PUBLIC, 80)] * 2
    assert names.asked == ["files.example.com"] * 2
    assert seen[0].headers["Host"] == "files.example.com"
    assert seen[0].headers["Accept-Encoding"] == "identity"
    assert seen[0].headers["User-Agent"].startswith("recto")
    assert seen[0].path_qs == "/%C3%A4%2Fb?sig=a%2fb+c=="
    assert "Cookie" not in seen[1].headers


async def test_proxy_variables_are_not_read(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(body) as port, way_out(Names(files=[[PUBLIC]])) as outbound:
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9/")
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9/")
        wire.stands_for[PUBLIC] = port
        assert await outbound.fetch("http://files.example.com/", io.BytesIO()) == 13


def test_the_table_is_long_enough() -> None:
    assert len(set(HOSTILE_URLS)) >= 150


async def test_r10_hostile_urls_are_refused_before_anything_is_asked_or_dialled(
    wire: Wire,
) -> None:
    names = Names()
    async with way_out(names) as outbound:
        for url in HOSTILE_URLS:
            error = await failing(outbound, url)
            assert isinstance(error, FetchRefused), url
            assert error.status == 400
    assert names.asked == []
    assert wire.dialled == []


async def test_r10_hostile_redirects_reach_nobody(wire: Wire) -> None:
    location = b""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = await reader.readline()
        if line.startswith(b"GET /start "):
            head = b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: " + location
        else:  # what is relative stays on the host that is allowed
            head = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0"
        writer.write(head + b"\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    names, refused = Names(), 0
    async with way_out(names, allowed_hosts=(f"127.0.0.1:{port}",)) as outbound:
        for url in HOSTILE_URLS:
            location = url.encode("utf-8", "surrogatepass")
            error = await failing(outbound, f"http://127.0.0.1:{port}/start")
            assert isinstance(error, FetchRefused | FetchFailed), url
            refused += isinstance(error, FetchRefused)
    server.close()
    assert set(wire.dialled) == {("127.0.0.1", port)}
    # Relative ones stay on the allowed host, and meet no other.
    assert set(names.asked) <= {"example.com"}
    assert refused > 130


@pytest.mark.parametrize("inside", ["http://127.0.0.1:1/", "http://169.254.169.254/latest/"])
async def test_a_redirect_inwards_is_refused(wire: Wire, inside: str) -> None:
    async def handler(request: web.Request) -> web.Response:
        raise web.HTTPFound(inside)

    async with (
        serving(handler) as port,
        way_out(Names(), allowed_hosts=(f"127.0.0.1:{port}",)) as outbound,
    ):
        assert isinstance(await failing(outbound, f"http://127.0.0.1:{port}/"), FetchRefused)
    assert wire.dialled == [("127.0.0.1", port)]


@pytest.mark.parametrize(
    "answers",
    [
        [PUBLIC, "10.0.0.1"],
        ["10.0.0.1", PUBLIC],
        [OTHER_PUBLIC, "::1"],
        ["::ffff:10.0.0.1"],
        ["64:ff9b::a00:1"],
        ["fe80::1%eth0"],
        ["168.63.129.16"],
        ["no address"],
    ],
)
async def test_one_private_answer_refuses_the_name(wire: Wire, answers: list[str]) -> None:
    async with way_out(Names(mixed=[answers])) as outbound:
        error = await failing(outbound, "https://mixed.example.com/?token=secret")
    assert isinstance(error, FetchRefused)
    assert error.message == (
        "The document URL (mixed.example.com) is not allowed: "
        "its name leads to an address that is not public."
    )
    assert wire.dialled == []


async def test_rebinding_is_refused(wire: Wire) -> None:
    names = Names(rebind=[[PUBLIC], ["127.0.0.1"]])
    async with serving(body) as port, way_out(names) as outbound:
        wire.stands_for[PUBLIC] = port
        assert await outbound.fetch("http://rebind.example.com/", io.BytesIO()) == 13
        assert isinstance(await failing(outbound, "http://rebind.example.com/"), FetchRefused)
    assert wire.dialled == [(PUBLIC, 80)]


async def test_rebinding_between_redirects_is_refused(wire: Wire) -> None:
    async def handler(request: web.Request) -> web.Response:
        raise web.HTTPFound("/again")

    names = Names(rebind=[[PUBLIC], ["192.168.1.1"]])
    async with serving(handler) as port, way_out(names) as outbound:
        wire.stands_for[PUBLIC] = port
        assert isinstance(await failing(outbound, "http://rebind.example.com/"), FetchRefused)
    assert wire.dialled == [(PUBLIC, 80)]


@pytest.mark.parametrize(("hops", "works"), [(0, True), (3, True), (4, False)])
async def test_redirects_are_counted(hops: int, works: bool) -> None:
    async def handler(request: web.Request) -> web.Response:
        left = int(request.query["left"])
        if left:
            raise web.HTTPTemporaryRedirect(f"/next?left={left - 1}")
        return web.Response(body=b"end")

    async with (
        serving(handler) as port,
        way_out(allowed_hosts=(f"127.0.0.1:{port}",)) as outbound,
    ):
        url = f"http://127.0.0.1:{port}/?left={hops}"
        if works:
            assert await outbound.fetch(url, io.BytesIO()) == 3
        else:
            error = await failing(outbound, url)
            assert isinstance(error, FetchRefused)
            assert "more than 3 times" in error.message


async def test_a_redirect_from_https_to_http_is_refused() -> None:
    async with way_out() as outbound:
        secure = vet("https://files.example.com/a", frozenset())
        assert str(outbound._next(secure, "/b").url) == "https://files.example.com/b"
        with pytest.raises(Refusal) as caught:
            outbound._next(secure, "http://files.example.com/b")
    assert caught.value.reason == "redirect"
    assert "from https to http" in caught.value.error.message


@pytest.mark.parametrize("location", [None, ""])
async def test_a_redirect_to_nowhere_fails(location: str | None) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(status=302, headers={} if location is None else {"Location": location})

    async with (
        serving(handler) as port,
        way_out(allowed_hosts=(f"127.0.0.1:{port}",)) as outbound,
    ):
        assert isinstance(await failing(outbound, f"http://127.0.0.1:{port}/"), FetchFailed)


async def test_an_endless_body_stops_at_the_cap() -> None:
    head = b"HTTP/1.1 200 OK\r\n\r\n"
    async with (
        answering(head, b"x" * 65536, endless=True) as port,
        way_out(max_bytes=5_000_000, allowed_hosts=("127.0.0.1",)) as outbound,
    ):
        into = io.BytesIO()
        with pytest.raises(TooLarge) as caught:
            await outbound.fetch(f"http://127.0.0.1:{port}/?sig=secret", into)
        assert into.tell() <= 5_000_000
    assert caught.value.message == (
        "The document at http://127.0.0.1 is larger than the 5 MB allowed."
    )


async def test_a_declared_size_over_the_cap_is_refused_unread() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000001\r\n\r\n"
    async with (
        answering(head, b"", endless=True, pause=0.05) as port,
        way_out(allowed_hosts=("127.0.0.1",)) as outbound,
    ):
        assert isinstance(await failing(outbound, f"http://127.0.0.1:{port}/"), TooLarge)


@pytest.mark.parametrize(("size", "fits"), [(1000, True), (1001, False)])
async def test_the_cap_is_exact(size: int, fits: bool) -> None:
    async with (
        answering(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * size) as port,
        way_out(max_bytes=1000, allowed_hosts=("127.0.0.1",)) as outbound,
    ):
        url = f"http://127.0.0.1:{port}/"
        if fits:
            assert await outbound.fetch(url, io.BytesIO()) == size
        else:
            assert isinstance(await failing(outbound, url), TooLarge)


@pytest.mark.parametrize("start", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n", b"HTT"])
async def test_a_dripping_answer_is_cut_at_the_deadline(start: bytes) -> None:
    async with (
        answering(start, b"x", endless=True, pause=0.02) as port,
        way_out(seconds=0.3, allowed_hosts=("127.0.0.1",)) as outbound,
    ):
        began = time.monotonic()
        error = await failing(outbound, f"http://127.0.0.1:{port}/")
        took = time.monotonic() - began
    assert isinstance(error, FetchFailed)
    if start != b"HTT" and start:
        assert "took longer than 0.3 seconds" in error.message
        assert took > 0.25
    assert took < 2


async def test_a_slow_name_is_cut_at_the_deadline() -> None:
    async def never(host: str, port: int) -> Sequence[str]:
        await asyncio.sleep(60)
        return [PUBLIC]

    outbound = Outbound(OutboundLimits(1000, seconds=0.1), never)
    error = await failing(outbound, "http://slow.example.com/")
    await outbound.close()
    assert isinstance(error, FetchFailed)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "x-gzip", "GZIP"])
async def test_a_compressed_answer_is_refused(encoding: str) -> None:
    async def handler(request: web.Request) -> web.Response:
        packed = gzip.compress(bytes(1_000_000))
        return web.Response(body=packed, headers={"Content-Encoding": encoding})

    async with serving(handler) as port, way_out(allowed_hosts=("127.0.0.1",)) as outbound:
        error = await failing(outbound, f"http://127.0.0.1:{port}/")
    assert isinstance(error, FetchRefused)
    assert "compressed" in error.message


@pytest.mark.parametrize(
    "headers",
    [
        b"Content-Encoding: identity\r\nContent-Encoding: gzip\r\n",
        b"Content-Encoding: identity, gzip\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n",
    ],
)
async def test_an_encoding_is_found_wherever_it_stands(headers: bytes) -> None:
    head = b"HTTP/1.1 200 OK\r\n" + headers + b"\r\n"
    async with answering(head, b"0\r\n\r\n") as port, way_out(allowed_hosts=("127.0.0.1",)) as out:
        error = await failing(out, f"http://127.0.0.1:{port}/")
    assert isinstance(error, FetchRefused)
    assert "compressed" in error.message


async def test_a_redirect_with_a_control_character_is_refused_before_it_is_joined() -> None:
    head = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1\t/x\r\n\r\n"
    async with answering(head) as port, way_out(allowed_hosts=("127.0.0.1",)) as outbound:
        error = await failing(outbound, f"http://127.0.0.1:{port}/")
    assert isinstance(error, FetchRefused)
    assert "control character" in error.message


async def test_caps_encodings_and_redirects_count_as_one_refusal_each() -> None:
    """The other reasons are counted in tests/property/test_urls.py."""
    endless = b"HTTP/1.1 200 OK\r\n\r\n"
    declared = b"HTTP/1.1 200 OK\r\nContent-Length: 1000001\r\n\r\n"
    packed = b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\n\r\n"
    in_circles = b"HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n"
    for pieces, reason in {
        (endless, b"x" * 65536): "size",
        (declared, b""): "size",
        (packed, b""): "encoding",
        (in_circles, b""): "redirect",
    }.items():
        before = refusals()
        async with (
            answering(*pieces, endless=True) as port,
            way_out(allowed_hosts=("127.0.0.1",)) as outbound,
        ):
            await failing(outbound, f"http://127.0.0.1:{port}/")
        assert refusals() - before == Counter({reason: 1})


async def test_what_only_fails_is_no_refusal_and_what_takes_too_long_is_one() -> None:
    before = refusals()
    missing = b"HTTP/1.1 404 Not Found\r\n\r\n"
    nowhere = b"HTTP/1.1 302 Found\r\n\r\n"
    for answer in (missing, nowhere, b"SSH-2.0-OpenSSH_9.2\r\n", b""):
        async with answering(answer) as port, way_out(allowed_hosts=("127.0.0.1",)) as outbound:
            assert isinstance(await failing(outbound, f"http://127.0.0.1:{port}/"), FetchFailed)
    assert refusals() == before
    async with (
        answering(b"HTTP/1.1 200 OK\r\n\r\n", b"x", endless=True, pause=0.02) as port,
        way_out(allowed_hosts=("127.0.0.1",), seconds=0.2) as outbound,
    ):
        assert isinstance(await failing(outbound, f"http://127.0.0.1:{port}/"), FetchFailed)
    assert refusals() - before == Counter(time=1)


@pytest.mark.parametrize("status", [300, 304, 400, 401, 403, 404, 410, 429, 500, 503])
async def test_a_status_that_is_no_success_is_named(status: int) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(status=status)

    async with serving(handler) as port, way_out(allowed_hosts=("127.0.0.1",)) as outbound:
        error = await failing(outbound, f"http://127.0.0.1:{port}/private?sig=secret")
    assert isinstance(error, FetchFailed)
    assert error.message == (
        f"The document URL could not be fetched from http://127.0.0.1: it answered {status}."
    )


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", "hung up without an answer"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "not valid HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", "not valid HTTP"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"a" * 20_000 + b"\r\n\r\n", "not valid HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", "broke off"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc", "not valid HTTP"),
    ],
)
async def test_a_malformed_answer_fails_with_a_plain_reason(answer: bytes, reason: str) -> None:
    async with answering(answer) as port, way_out(allowed_hosts=("127.0.0.1",)) as outbound:
        error = await failing(outbound, f"http://127.0.0.1:{port}/private?sig=secret")
    assert isinstance(error, FetchFailed)
    assert reason in error.message
    assert "private" not in error.message
    assert "secret" not in error.message


async def test_no_name_no_connection_no_tls(wire: Wire) -> None:
    names = Names(closed=[[PUBLIC]], plain=[["93.184.215.15"]], empty=[[]])
    async with serving(body) as port, way_out(names) as outbound:
        wire.stands_for["93.184.215.15"] = port
        place = "The document URL could not be fetched from https://"
        for host, reason in {
            "unknown": "its name could not be resolved",
            "closed": "no connection could be made",
            "plain": "no TLS connection could be made",
        }.items():
            error = await failing(outbound, f"https://{host}.example.com/?sig=secret")
            assert isinstance(error, FetchFailed)
            assert error.message == f"{place}{host}.example.com: {reason}."


class SilentNames:
    """A DNS that answers nobody, in place of the system's."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.ended = 0
        self.full = threading.Event()
        self.release = threading.Event()

    def __call__(self, host: str, *_: object, **__: object) -> list[object]:
        self.asked.append(host)
        if len(self.asked) == names.PLACES:
            self.full.set()
        self.release.wait(20)
        self.ended += 1
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[SilentNames]:
    silent = SilentNames()
    monkeypatch.setattr(socket, "getaddrinfo", silent)
    yield silent
    silent.release.set()


async def test_a_silent_dns_stops_neither_file_work_nor_the_deadline(silent: SilentNames) -> None:
    """Every place is taken; who finds none fails too, and the loop's threads stay free."""
    outbound = Outbound(OutboundLimits(1000, seconds=1))
    count = names.PLACES + 40  # more than the loop's own threads
    fetches = [
        asyncio.create_task(failing(outbound, f"http://{number}.example.com/"))
        for number in range(count)
    ]
    async with asyncio.timeout(20):
        assert await asyncio.to_thread(silent.full.wait, 10)
    for error in await asyncio.gather(*fetches):
        assert isinstance(error, FetchFailed)
        assert "took longer than 1 seconds" in error.message
    assert len(silent.asked) == names.PLACES
    await outbound.close()


async def test_closing_waits_for_no_name(silent: SilentNames) -> None:
    outbound = Outbound(OutboundLimits(1000, seconds=0.1))
    assert isinstance(await failing(outbound, "http://slow.example.com/"), FetchFailed)
    await outbound.close()
    assert (len(silent.asked), silent.ended) == (1, 0)
    silent.release.set()
    error = await failing(outbound, "http://slow.example.com/")
    assert "its name could not be resolved" in error.message
    await outbound.close()


async def test_a_closed_way_out_opens_again() -> None:
    async with serving(body) as port, way_out(allowed_hosts=("127.0.0.1",)) as outbound:
        for _ in range(2):
            assert await outbound.fetch(f"http://127.0.0.1:{port}/", io.BytesIO()) == 13
            await outbound.close()


async def test_a_full_disk_is_not_blamed_on_the_url() -> None:
    class Full(io.BytesIO):
        def write(self, _: Any) -> int:
            raise OSError(28, "No space left on device")

    async with serving(body) as port, way_out(allowed_hosts=("127.0.0.1",)) as outbound:
        with pytest.raises(OSError, match="No space left"):
            await outbound.fetch(f"http://127.0.0.1:{port}/", Full())


@pytest.mark.parametrize("address", [PUBLIC, OTHER_PUBLIC, "8.8.8.8", "2a00:1450:4001:81b::200e"])
def test_public_addresses(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    ["192.0.0.9", "192.88.99.1", "64:ff9b::808:808", "2002:808:808::1", "2001::1", "2001:20::1",
     "::ffff:8.8.8.8", "fec0::1", "4000::1", "2606:2800:21f::1%eth0", "", "x", "1.2.3", "ff0e::1"],
)  # fmt: skip
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)
