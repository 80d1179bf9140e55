"""R10: no URL, redirect or DNS answer makes the way out open a socket to an inner address.

Nothing of ours is patched. Names are answered by a resolver that is handed in, and an audit hook
of the interpreter (PEP 578) sees every connect and every look-up that really happens; it also
keeps what would leave this machine from leaving it. Listeners on loopback count who arrives.
"""

from __future__ import annotations

import asyncio
import io
import ipaddress
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import httpx
import pytest

from files_api.kit import metrics
from files_api.kit.errors import AppError, FetchFailed, FetchRefused
from ocr_api import app
from ocr_api.outbound import Outbound, OutboundLimits
from ocr_api.outbound.addresses import is_public
from ocr_api.settings import Settings
from tests.conftest import running

PUBLIC, PUBLIC_6 = "93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"

# --- the corpus -----------------------------------------------------------------------------------

PRIVATE_4 = (
    *("127.0.0.1", "127.0.0.2", "127.255.255.254", "0.0.0.0", "10.0.0.1", "172.16.0.1"),
    *("172.31.255.255", "192.168.0.1", "100.64.0.1"),
    # What clouds tell about a machine, its keys among it: AWS, Google, Azure and others;
    # Alibaba; Oracle; Azure's host agent; Tencent.
    *("169.254.169.254", "100.100.100.200", "192.0.0.192", "168.63.129.16", "169.254.0.23"),
)
"""Written in each of `forms_of`; a socket to any of them would be a breach."""

OTHER_4 = (
    *("192.0.2.1", "192.88.99.1", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1"),
    *("224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255", "0.1.2.3", "127.1.2.3"),
    *("10.255.255.255", "100.127.255.255", "169.254.1.1", "192.0.0.1", "192.168.255.255"),
    *("192.31.196.1", "192.52.193.1", "192.175.48.1"),
)
PRIVATE_6 = (
    *("::1", "::", "::127.0.0.1", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "64:ff9b:1::1"),
    *("64:ff9b:1:ffff::7f00:1", "100::1", "2001::1", "2001:2::1", "2001:20::1", "2001:db8::1"),
    *("2002:808:808::1", "3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fd20:ce::254"),
    *("fdff:ffff::1", "fe80::1", "fe80::a9fe:a9fe", "febf::1", "fec0::1", "ff02::1", "ff0e::1"),
    *("4000::1", "2620:4f:8000::1"),
)
INSIDE_NAMES = (
    *("localhost", "LOCALHOST", "localhost.", "foo.localhost", "localhost.localdomain", "db"),
    *("kubernetes", "kubernetes.default", "kubernetes.default.svc", "redis.default"),
    *("kubernetes.default.svc.cluster.local", "kube-dns.kube-system", "x.kube-system.svc"),
    *("metadata", "metadata.google.internal", "METADATA.GOOGLE.INTERNAL.", "instance-data"),
    *("instance-data.ec2.internal", "host.docker.internal", "gateway.docker.internal"),
    *("vault.service.consul", "printer.local", "nas.lan", "router.home.arpa", "fritz.home"),
    *("wiki.corp", "mx.mail", "x.private", "x.intranet", "x.test", "x.invalid", "x.onion"),
    *("ｌｏｃａｌｈｏｓｔ", "ⓛⓞⓒⓐⓛⓗⓞⓢⓣ", "ⅼocalhost", "ｄｂ"),
)
LEADING_INWARDS = {
    "localtest.example.com": ["127.0.0.1"],
    "127.0.0.1.nip.example.com": ["127.0.0.1"],
    "metadata.example.com": ["169.254.169.254"],
    "cname.example.com": ["10.96.0.1"],  # its alias is a cluster's API; addresses are what counts
    "mixed.example.com": [PUBLIC, "10.0.0.1"],
    "mixed-last.example.com": [PUBLIC, PUBLIC_6, "::1"],
    "mixed-first.example.com": ["fd00:ec2::254", PUBLIC],
    "mapped.example.com": ["::ffff:127.0.0.1"],
    "nat64.example.com": ["64:ff9b::7f00:1"],
    "zoned.example.com": ["fe80::1%eth0"],
    "azure.example.com": ["168.63.129.16"],
    "shared.example.com": ["100.64.0.1"],
    "odd.example.com": ["no address"],
}
"""Public names and what a hostile DNS answers; all are refused for their addresses."""

TRICKS = {
    "form": (
        # Parsers disagree about these: who reads the host, who the user, who the path.
        *("http://example.com\\@{h}/", "http://{h}\\@example.com/", "http:\\\\{h}/", "http:/\\{h}"),
        *("http://exa\tmple.com@{h}/", "http://{h}\t/", "http://{h}\n/", "http://{h}\r\nHost: x"),
        *("\x00http://{h}/", " http://{h}/", "http://{h}\x00.example.com/", "http://{h} /"),
        *("http://{h}\u3000/", "http://{h}\x85/", "http://{h}\u2028/", "http://{h}\x7f/"),
        *("http://{h}%00.example.com/", "http://{h}%2f.example.com/", "http://{h}%252f/"),
        *("http://{h};.example.com/", "http://{h},example.com/", "http://example.com,{h}/"),
        *("http://{h}:80:80/", "http://{h}:-80/", "http://{h}:+80/", "http://{h}:８０/"),
        *("http://{h}:80a/", "http://{h}:/", "http://{h}:0x50/", "http://[{h}]/", "http://{h}]/"),
        *("http://{h}../", "http://.{h}/", "http://{h}..example.com/", "http://*.{h}/"),
        *("http://{h}$/", "http://{h}&.example.com/", "http:///{h}/", "http:{h}", "http:/{h}/"),
    ),
    "userinfo": (
        *("http://user@{h}/", "http://user:pass@{h}/", "http://@{h}/", "http://example.com@{h}/"),
        *("http://example.com:80@{h}/", "http://{h}@example.com/", "http://{h}:80@example.com/"),
        *("http://a@b@{h}/", "https://example.com&@{h}/", "http://example.com%40@{h}:{port}/"),
        *("http://{h}%2f@example.com/", "http://:@{h}/", "http://example.com;@{h}/"),
    ),
    "address": (
        # Seen by the right parser, all of these are the bare inner address.
        *("http://{h}?@example.com/", "http://{h}#@example.com/", "http://{h}/@example.com/"),
        *("http://{h}/../../", "http://{h}/%2e%2e/", "HTTP://{h}/", "hTTps://{h}/", "http://{h}"),
        *("http://{h}:80/", "http://{h}:443/", "https://{h}:443/", "http://{h}:{port}/"),
        *("http://{h}:00080/", "https://{h}:{port}/latest/meta-data/", "http://{h}/?u=http://x"),
        *("http://{h}:22/", "http://{h}:5432/", "http://{h}:6379/", "http://{h}:65535/"),
    ),
    "port": ("http://{h}:0/", "http://{h}:65536/", "http://{h}:99999/"),
    "scheme": (
        *("ftp://{h}/", "file://{h}/etc/passwd", "gopher://{h}:6379/_INFO", "dict://{h}:11211/"),
        *("ldap://{h}/", "tftp://{h}/", "ws://{h}/", "wss://{h}/", "jar:http://{h}!/", "//{h}/"),
        *("unix:/var/run/docker.sock", "javascript:fetch('http://{h}')", "data:,{h}", "{h}", ""),
        *("http+unix://{h}/", "view-source:http://{h}/", "netdoc:///etc/passwd", "ssh://{h}/"),
        *("s3://{h}/key", "smb://{h}/c$", "phar://{h}/", "ｈｔｔｐ://{h}/", "blob:http://{h}/"),
    ),
}
"""Reason -> URLs; ``{h}`` is a loopback or a metadata address, ``{port}`` a real listener's."""

OUTSIDE = {
    # On hosts that are public: what is refused is something else.
    "port": ("http://example.com:22/", "http://example.com:8080/", "https://example.com:6379/"),
    "form": (
        *("http://", "https:", "http://?x", "http://#x", "http://[::1", "http://::1/", "http://[]/"),
        *("http://[fe80::1%25eth0]/", "http://[fe80::1%eth0]/", "http://[::1%25lo]:80/"),
        *("http://[v1.fe80::a]/", "http://[127.0.0.1]/", "http://[dead.beef]/", "http://[::g]/"),
        *("http://[::1].example.com/", "http://[::1]x/", "http://[::ffff:127.0.0.1/"),
        *("http://a..com/", "http://exa%6dple.com/", "http://%31%32%37.0.0.1/"),
        *("http://" + "x" * 64 + ".com/", "http://" + "a." * 127 + "com/", "http://a℀.com/"),
        *("http://example.com/" + "a" * 8200, "http://xn--\ud800.com/", "http://example.com／@x/"),
        *("http://loc\u00adalhost/", "http://local\u200bhost/", "http://127.0.0.1\u200d/"),
        *("http://127%2e0%2e0%2e1/", "http://127.0.0.1%2f/", "http://0x7f%2e1/"),
    ),
}  # fmt: skip


def full_width(text: str) -> str:
    return "".join(chr(ord(letter) + 0xFEE0) if letter.isdigit() else letter for letter in text)


def forms_of(text: str) -> list[str]:
    """Return an IPv4 address in the ways that some resolver or URL parser understands."""
    address = IPv4Address(text)
    number, (a, b, c, d) = int(address), address.packed
    within = (
        IPv6Address(number),  # IPv4-compatible (RFC 4291, 2.5.5.1)
        IPv6Address(0xFFFF << 32 | number),  # IPv4-mapped
        IPv6Address(0xFFFF << 48 | number),  # IPv4-translated (RFC 2765)
        IPv6Address(0x64_FF9B << 96 | number),  # NAT64 (RFC 6052)
        IPv6Address(0x64_FF9B_0001 << 80 | number),  # NAT64, local use (RFC 8215)
        IPv6Address(0x2002 << 112 | number << 80 | 1),  # 6to4 (RFC 3056)
        IPv6Address(0x2001 << 112 | number << 64),  # Teredo, its server (RFC 4380)
        IPv6Address(0x2001 << 112 | number ^ 0xFFFF_FFFF),  # Teredo, its client
    )
    return [
        *(text, f"{text}.", str(number), f"{number}.", hex(number), f"0X{number:08X}"),
        *(f"0{number:o}", f"000{number:o}", f"{a}.{number & 0xFFFFFF}", f"{a}.{b}.{c << 8 | d}"),
        *(f"0{a:o}.0{b:o}.0{c:o}.0{d:o}", f"{a:#x}.{b:#x}.{c:#x}.{d:#x}", f"{a:03}.{b}.{c}.{d}"),
        *(f"{a}.{b}.{c}.{d:#x}", f"0x{a:08x}.{b}.{c}.{d}", f"{number + 2**32}", f"{text}.1"),
        *(full_width(text), text.replace(".", "。"), full_width(text).replace(".", "．")),
        *(text.replace("1", "①"), text.replace(".", "｡"), full_width(str(number))),
        *(f"[{address}]" for address in within),
        f"[::ffff:{text}]",
        f"[0:0:0:0:0:ffff:{text}]",
        f"[64:ff9b::{text}]",
    ]


def corpus(port: int) -> dict[str, str]:
    """Return hostile URLs, and the reason for which each is refused.

    Args:
        port: where a listener waits on 127.0.0.1, 127.0.0.2 and ::1.
    """
    found: dict[str, str] = {}
    for number, host in enumerate(form for text in PRIVATE_4 for form in forms_of(text)):
        # "[…]." and the like do not occur; a host in brackets is taken apart before it is read.
        found[f"{('http', 'https')[number % 2]}://{host}/a.pdf"] = "address"
        found[f"http://{host}:{port}/"] = "address"
    for host in (*OTHER_4, *(f"[{text}]" for text in PRIVATE_6)):
        found[f"http://{host}/a.pdf"] = found[f"https://{host}:443/"] = "address"
    for host in INSIDE_NAMES:
        found[f"http://{host}/a.pdf"] = found[f"https://{host}:{port}/"] = "name"
    for host in LEADING_INWARDS:
        found[f"http://{host}/a.pdf"] = found[f"https://{host.upper()}./"] = "address"
    for reason, tricks in TRICKS.items():
        for host in ("127.0.0.1", "169.254.169.254"):
            found |= {trick.format(h=host, port=port): reason for trick in tricks}
    for reason, urls in OUTSIDE.items():
        found |= dict.fromkeys(urls, reason)
    return found


# --- what is watched ------------------------------------------------------------------------------


@dataclass
class Watch:
    """What the interpreter was asked to connect to and to look up."""

    dialled: list[tuple[Any, ...]] = field(default_factory=list)
    looked_up: list[object] = field(default_factory=list)


_watching: list[Watch] = []


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if not _watching or not event.startswith("socket."):
        return
    if event in {"socket.connect", "socket.sendto", "socket.sendmsg"} and args[1]:
        if args[0].family not in {socket.AF_INET, socket.AF_INET6}:
            return
        _watching[-1].dialled.append(tuple(args[1][:2]))
        if not ipaddress.ip_address(args[1][0]).is_loopback:
            raise ConnectionRefusedError("no test leaves this machine")
    elif event in {"socket.getaddrinfo", "socket.gethostbyname"}:
        _watching[-1].looked_up.append(args[0])


sys.addaudithook(_hook)  # for as long as the process lives; idle while nobody watches


@contextmanager
def watching() -> Iterator[Watch]:
    _watching.append(Watch())
    try:
        yield _watching[-1]
    finally:
        _watching.pop()


@contextmanager
def counting() -> Iterator[Callable[[], Counter[str]]]:
    """Give a function that tells how many fetches were refused so far, by reason."""
    before = _refused()
    yield lambda: _refused() - before


def _refused() -> Counter[str]:
    # The counter and not the page: after other tests that is long, and it is read often here.
    samples = (
        sample
        for family in metrics._fetches_refused.collect()
        for sample in family.samples
        if sample.name == "ocr_fetch_refused_total"
    )
    return Counter({sample.labels["reason"]: int(sample.value) for sample in samples})


class Names:
    """A DNS of ours: name -> one list of addresses per look-up, the last one for ever."""

    def __init__(self, answers: dict[str, list[Sequence[str]]]) -> None:
        self.answers = answers
        self.asked: list[str] = []

    async def __call__(self, host: str, _port: int) -> Sequence[str]:
        self.asked.append(host)
        answers = self.answers.get(host)
        if not answers:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return answers.pop(0) if len(answers) > 1 else answers[0]


def hostile_names() -> Names:
    return Names({name: [addresses] for name, addresses in LEADING_INWARDS.items()})


@dataclass
class Listeners:
    """Servers where no fetch may arrive."""

    port: int
    """On 127.0.0.1, and on 127.0.0.2 and ::1 where this machine has them."""
    visits: int = 0


@asynccontextmanager
async def listening() -> AsyncIterator[Listeners]:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        listeners.visits += 1
        writer.close()

    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(await asyncio.start_server(answer, "127.0.0.1", 0))
        listeners = Listeners(first.sockets[0].getsockname()[1])
        for host in ("127.0.0.2", "::1"):
            try:
                server = await asyncio.start_server(answer, host, listeners.port)
            except OSError:
                continue  # a machine without it
            await stack.enter_async_context(server)
        yield listeners


@asynccontextmanager
async def redirecting(locations: Sequence[bytes]) -> AsyncIterator[int]:
    """Serve /0, /1, … on loopback as redirects there; everything else is 404."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        path = head.split(b" ")[1][1:]
        if path.isdigit():
            lines = b"302 Found\r\nLocation: " + locations[int(path)]
        else:
            lines = b"404 Not Found"
        writer.write(b"HTTP/1.1 " + lines + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


@asynccontextmanager
async def way_out(names: Names, *allowed: str) -> AsyncIterator[Outbound]:
    outbound = Outbound(OutboundLimits(1_000_000, seconds=20, allowed_hosts=allowed), names)
    try:
        yield outbound
    finally:
        await outbound.close()


async def failing(outbound: Outbound, url: str) -> AppError:
    with pytest.raises(AppError) as caught:
        await outbound.fetch(url, io.BytesIO())
    return caught.value


# --- the tests ------------------------------------------------------------------------------------


def test_the_corpus_is_long_and_wide_enough() -> None:
    assert len(corpus(8123)) >= 900
    assert set(corpus(8123).values()) == {"form", "scheme", "userinfo", "port", "name", "address"}


async def test_r10_hostile_urls_open_no_socket() -> None:
    names = hostile_names()
    async with listening() as listeners, way_out(names) as outbound:
        wanted = corpus(listeners.port)
        with watching() as watch, counting() as counted:
            for url, reason in wanted.items():
                before = counted()
                error = await failing(outbound, url)
                assert isinstance(error, FetchRefused), url
                assert counted() - before == Counter({reason: 1}), url
    assert watch == Watch()
    assert listeners.visits == 0
    assert set(names.asked) == set(LEADING_INWARDS)


async def test_r10_hostile_redirects_open_no_socket_but_the_one_that_is_allowed() -> None:
    names = hostile_names()
    async with AsyncExitStack() as stack:
        listeners = await stack.enter_async_context(listening())
        urls = list(corpus(listeners.port))
        locations = [url.encode("utf-8", "surrogatepass") for url in urls]
        port = await stack.enter_async_context(redirecting(locations))
        outbound = await stack.enter_async_context(way_out(names, f"127.0.0.1:{port}"))
        watch = stack.enter_context(watching())
        counted = stack.enter_context(counting())
        refused = 0
        for number, url in enumerate(urls):
            error = await failing(outbound, f"http://127.0.0.1:{port}/{number}")
            # Some are relative, some end where an HTTP header does: those meet a 404, or no name.
            assert isinstance(error, FetchRefused | FetchFailed), url
            refused += isinstance(error, FetchRefused)
        assert counted().total() == refused >= 0.95 * len(urls)
    assert set(watch.dialled) == {("127.0.0.1", port)}
    assert watch.looked_up == []
    assert listeners.visits == 0
    assert set(names.asked) <= {*LEADING_INWARDS, "example.com"}


async def test_r10_the_service_answers_each_of_them_with_a_400(settings: Settings) -> None:
    """Through the real app, whose names the system would look up: none of them gets so far."""
    service = app.create(settings.model_copy(update={"fetch_allow": ()}))
    async with (
        listening() as listeners,
        running(service),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(service), base_url="http://127.0.0.1"
        ) as client,
    ):
        urls = [url for url in corpus(listeners.port) if not leads_to_a_look_up(url)]
        with watching() as watch:
            for url in urls:
                document = {"type": "document_url", "document_url": url}
                answer = await client.post("/v1/ocr", json={"model": "echo", "document": document})
                assert answer.status_code in {400, 422}, url
                assert answer.json()["code"] in CODES, url
    assert watch == Watch()
    assert listeners.visits == 0
    assert len(urls) >= 800


CODES = {"fetch_refused", "invalid_base64", "missing_document", "validation_error", "invalid_json"}


def leads_to_a_look_up(url: str) -> bool:
    """Tell whether it names a public host, or cannot stand in JSON at all."""
    return "example.com" in url.lower() or "\ud800" in url


SPECIAL = (*PRIVATE_4, *OTHER_4, *PRIVATE_6, "fe80::1%eth0", "fe80::1%25eth0", "::1%lo")


async def test_r10_one_inner_address_among_the_answers_refuses_the_name() -> None:
    hostile = [
        answers
        for address in SPECIAL
        for answers in ([address], [PUBLIC, address], [address, PUBLIC_6], [PUBLIC] * 5 + [address])
    ]
    names = Names({f"{number}.example.com": [each] for number, each in enumerate(hostile)})
    async with way_out(names) as outbound:
        with watching() as watch, counting() as counted:
            for number, answers in enumerate(hostile):
                error = await failing(outbound, f"http://{number}.example.com/")
                assert isinstance(error, FetchRefused), answers
        assert counted() == Counter(address=len(hostile))
    assert watch == Watch()
    assert not any(map(is_public, SPECIAL))
    assert len(names.asked) == len(hostile) > 200


@pytest.mark.parametrize("inner", ["127.0.0.1", "::1", "10.0.0.1", "169.254.169.254", "fe80::1%1"])
async def test_r10_a_name_that_turns_inwards_is_dialled_only_where_it_was_public(
    inner: str,
) -> None:
    names = Names({"rebind.example.com": [[PUBLIC], [inner], [PUBLIC, inner], [inner]]})
    async with way_out(names) as outbound:
        with watching() as watch:
            first = await failing(outbound, "http://rebind.example.com/")
            later = [await failing(outbound, "http://rebind.example.com/") for _ in range(3)]
    assert isinstance(first, FetchFailed)  # the one that was really dialled
    assert all(isinstance(error, FetchRefused) for error in later)
    assert watch.dialled == [(PUBLIC, 80)]
    assert watch.looked_up == []


async def test_r10_the_dialled_address_is_the_vetted_one_whatever_the_dns_says_next() -> None:
    """One fetch asks once: between the look at an address and the dialling nothing is asked."""
    names = Names({"rebind.example.com": [[PUBLIC, PUBLIC_6], ["127.0.0.1"]]})
    async with way_out(names) as outbound:
        with watching() as watch:
            assert isinstance(await failing(outbound, "http://rebind.example.com/"), FetchFailed)
    assert names.asked == ["rebind.example.com"]
    assert {address[0] for address in watch.dialled} == {PUBLIC, PUBLIC_6}


async def test_r10_an_allowed_host_leads_to_no_other() -> None:
    """An intranet host that is allowed may redirect to itself, not to its neighbours."""
    async with AsyncExitStack() as stack:
        listeners = await stack.enter_async_context(listening())
        inner = [
            *(f"http://127.0.0.2:{listeners.port}/", f"http://127.0.0.1:{listeners.port}/"),
            *(f"http://[::1]:{listeners.port}/", f"http://localhost:{listeners.port}/"),
            *(f"//127.0.0.2:{listeners.port}/", "http://10.0.0.5/", "http://wiki.corp/"),
            *("http://files.corp.example.com/", "http://xfiles.corp/", "http://files.corp.:81/"),
        ]
        port = await stack.enter_async_context(redirecting([url.encode() for url in inner]))
        names = Names({"files.corp": [["127.0.0.1"]], "files.corp.example.com": [["127.0.0.1"]]})
        outbound = await stack.enter_async_context(way_out(names, f"files.corp:{port}"))
        watch = stack.enter_context(watching())
        for number, url in enumerate(inner):
            error = await failing(outbound, f"http://FILES.corp:{port}/{number}")
            assert isinstance(error, FetchRefused), url
        # The name is allowed, its address is not; and only on its port.
        for url in (f"http://127.0.0.1:{port}/", "http://files.corp/", "https://files.corp/"):
            assert isinstance(await failing(outbound, url), FetchRefused), url
    assert set(watch.dialled) == {("127.0.0.1", port)}
    assert listeners.visits == 0
