"""Where a fetch may go: a URL is taken apart by one strict grammar, and built anew. Pure.

Why: cloud metadata services, cluster APIs and our own database listen on private addresses, and
a URL has more ways to spell those than a deny-list of texts has lines (RFC 1918, legacy IPv4
forms, IPv6 tunnels, other scripts). So only what is understood whole passes.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from dataclasses import dataclass
from string import punctuation
from typing import Literal
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from yarl import URL

from files_api.kit.errors import AppError, FetchRefused

Reason = Literal[
    "form", "scheme", "userinfo", "port", "name", "address", "redirect", "encoding", "size", "time"
]
"""Why a fetch was refused, as it is counted: ``form`` is a URL that cannot be taken apart,
``name`` a name that means something inside only, ``redirect`` too many or one from https to http
(where one leads to, is refused for what it is), ``size`` and ``time`` are the caps."""

_MAX_URL = 8192  # signed links with session tokens pass 2,048; servers refuse above 8 KiB
_MAX_NAME = 253  # RFC 1035, 2.3.4, without the final dot
_DEFAULT_PORTS = {"http": 80, "https": 443}
_LAST_PORT = 65535

_FORBIDDEN = re.compile(r"[\s\x00-\x20\x7f-\x9f\\]")
# An IPv6 address in brackets or a name, then perhaps a port; no user, no escapes.
_AUTHORITY = re.compile(r"(?:\[([0-9A-Fa-f.]*:[0-9A-Fa-f:.]*)\]|([^\[\]:@%/]+))(?::([0-9]{1,5}))?")
_NAME = re.compile(r"[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*")
# WHATWG URL, "ends in a number": such a host is an IPv4 address or nothing.
_NUMERIC_END = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)")

# Names that only ever mean something inside a machine, a cluster or a company (RFC 6761, 6762,
# 7686, 8375, 9476; ICANN reserved .internal in 2024, and gives .corp, .home and .mail to nobody).
# Kubernetes' search list makes NAME.NAMESPACE.svc and NAME.NAMESPACE mean a service.
_INSIDE = (
    *(".local", ".localhost", ".localdomain", ".internal", ".intranet", ".home.arpa"),
    *(".svc", ".cluster.local", ".default", ".kube-system", ".consul"),
    *(".lan", ".corp", ".home", ".mail", ".private"),
    *(".test", ".invalid", ".onion", ".alt"),
)

# IANA IPv4 and IPv6 special-purpose registries (2024). `ipaddress.is_global` alone is not enough:
# its answer changes between Python releases, and it knows no cloud's own addresses.
_NOT_PUBLIC_4 = tuple(
    ipaddress.IPv4Network(text)
    for text in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16"),
        *("172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16"),
        *("198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
        # AS112 and AMT are anycast: who answers is often the own network.
        *("192.31.196.0/24", "192.52.193.0/24", "192.175.48.0/24"),
        "168.63.129.16/32",  # Azure's host agent, on a public address
    )
)
# All that is routed on the IPv6 Internet today lies in 2000::/3. Outside it are loopback,
# unspecified, IPv4-mapped and -compatible, NAT64 (64:ff9b::/96, 64:ff9b:1::/48), unique local
# (fd00:ec2::254 among them), link local, site local and multicast.
_PUBLIC_6 = ipaddress.IPv6Network("2000::/3")
_NOT_PUBLIC_6 = tuple(
    ipaddress.IPv6Network(text)
    # IETF protocols with Teredo and ORCHID; documentation; 6to4; AS112; documentation.
    for text in ("2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20")
)


class Refusal(Exception):
    """A fetch ends here: why, as it is counted, and the error that the client sees."""

    def __init__(self, reason: Reason, error: AppError) -> None:
        super().__init__(reason)
        self.reason: Reason = reason
        self.error = error


@dataclass(frozen=True, slots=True)
class Target:
    """A URL that passed: what is dialled, and how errors call it."""

    url: URL
    place: str


def vet(url: str, allowed: frozenset[str]) -> Target:
    """Return the URL rebuilt from checked parts.

    Args:
        url: what the caller or a server named.
        allowed: the allow-list, as `is_allowed` takes it.

    Raises:
        Refusal: the URL is not one that may be fetched.
    """
    _check_characters(url)
    parts = _split(url)
    scheme, authority = parts.scheme, _AUTHORITY.fullmatch(parts.netloc)
    if scheme not in _DEFAULT_PORTS:
        raise refused("scheme", "only http and https URLs are fetched")
    if "@" in parts.netloc:
        raise refused("userinfo", "it has a user name in it")
    if authority is None:
        raise refused("form", "its host is malformed")
    host = _ascii_host(authority[1] or authority[2])
    name = _bracketed(host)
    place = f"{scheme}://{name}"
    port = int(authority[3] or _DEFAULT_PORTS[scheme])
    if not 0 < port <= _LAST_PORT:
        raise refused("port", "its port does not exist", place)
    if not is_allowed(host, port, allowed):
        _check_host(host, place)
        if port not in _DEFAULT_PORTS.values():
            raise refused("port", "only the ports 80 and 443 are fetched from", place)
    path, ask = (quote(part, safe=punctuation) for part in (parts.path or "/", parts.query))
    # Encoded: a signed link must arrive as it was signed, not as somebody would requote it.
    to = URL.build(scheme=scheme, host=name, port=port, path=path, query_string=ask, encoded=True)
    return Target(to, place)


def vet_redirect(origin: Target, location: str, allowed: frozenset[str]) -> Target:
    """Return where a ``Location`` header leads to, vetted like any other URL.

    Raises:
        Refusal: it leads to where no fetch may go, or from https to http.
    """
    # Before it is joined: urljoin drops tabs and line ends silently.
    _check_characters(location)
    try:
        joined = urljoin(str(origin.url), location)
    except ValueError:
        raise refused("form", "it redirects to a malformed URL", origin.place) from None
    found = vet(joined, allowed)
    if origin.url.scheme == "https" and found.url.scheme == "http":
        raise refused("redirect", "it redirects from https to http", origin.place)
    return found


def _check_characters(url: str) -> None:
    if len(url) > _MAX_URL:
        raise refused("form", f"it has more than {_MAX_URL} characters")
    if _FORBIDDEN.search(url):
        raise refused("form", "it contains white space, a control character or a backslash")


def _split(url: str) -> SplitResult:
    try:
        url.encode()
        return urlsplit(url)
    except ValueError:
        raise refused("form", "it is malformed") from None


def _ascii_host(text: str) -> str:
    """Return the host as the DNS knows it: IDNA, lower case, no final dot; addresses canonical.

    Full-width digits and dots become plain ones here (UTS 46), before anything is compared.
    """
    host = unicodedata.normalize("NFKC", text).lower()
    if not host.isascii():
        try:
            host = URL.build(scheme="http", host=host).raw_host or ""
        except ValueError:
            raise refused("form", "its host is malformed") from None
    host = host.removesuffix(".")
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        if len(host) > _MAX_NAME or not _NAME.fullmatch(host):
            raise refused("form", "its host is malformed") from None
        return host


def _check_host(host: str, place: str) -> None:
    """Refuse what cannot be a public host, before any name is looked up."""
    if is_public(host):
        return
    if ":" in host or _NUMERIC_END.fullmatch(host):
        raise refused("address", "its host is not a public IP address in its usual form", place)
    if "." not in host or host.endswith(_INSIDE):
        raise refused("name", "its host is a name inside a network", place)


def is_allowed(host: str, port: int, allowed: frozenset[str]) -> bool:
    """Tell whether the allow-list names the host, bare or with this port."""
    name = _bracketed(host)
    return name in allowed or f"{name}:{port}" in allowed


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def is_public(address: str) -> bool:
    """Tell whether the IP address is one that anybody on the Internet could reach.

    Addresses that carry another one inside (IPv4-mapped, NAT64, 6to4, Teredo) are not, whatever
    is inside. Neither is a text that is no address.
    """
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv4Address):
        return found.is_global and not any(found in network for network in _NOT_PUBLIC_4)
    inside = found in _PUBLIC_6 and not any(found in network for network in _NOT_PUBLIC_6)
    return inside and found.is_global and not found.scope_id


def refused(reason: Reason, why: str, place: str | None = None) -> Refusal:
    """Return the refusal of a URL, or of the ``place`` behind it; ``why`` ends the sentence."""
    name = f" ({place})" if place else ""
    return Refusal(reason, FetchRefused(f"The document URL{name} is not allowed: {why}."))
