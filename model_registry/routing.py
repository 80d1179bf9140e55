"""Traffic as data: public names, their weighted targets, and the stable pick between them."""

from __future__ import annotations

import hashlib
import math
import re
from ipaddress import IPv6Address
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from model_registry.card import read_as

DEFAULT = "default"
"""The word in ``aliases`` that stands for whatever the default route is; no name may be it."""

_AUTHORITY = re.compile(r"(?:[A-Za-z0-9._-]+|\[([0-9A-Fa-f:.]+)\])(?::([0-9]{1,5}))?")
"""Host or IPv6 address in brackets, and port (RFC 3986, 3.2, without the user)."""
_LAST_PORT = 65535


def base_url(url: str) -> str:
    """Return the base URL of a server, without a slash at its end.

    Raises:
        ValueError: it is none; the message does not repeat it, since it may hold a password.
    """
    scheme, _, rest = url.partition("://")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if "@" in authority:
        raise ValueError("an address holds no user or password; a key is RECTO_ENGINE_API_KEY")
    if any(char in "?#" or char.isspace() or not char.isprintable() for char in url):
        raise ValueError("an address holds no blank, no query (?) and no fragment (#)")
    if scheme.lower() not in {"http", "https"} or not _is_authority(authority):
        raise ValueError("an address must be such as http://host:8000/v1")
    return url.rstrip("/")


def _is_authority(text: str) -> bool:
    """Return whether this is a host, or an IPv6 address in brackets, with a port or without."""
    found = _AUTHORITY.fullmatch(text)
    if found is None or (found[2] and not 1 <= int(found[2]) <= _LAST_PORT):
        return False
    try:
        IPv6Address(found[1] or "::")
    except ValueError:
        return False
    return True


def place(url: str) -> str:
    """Return host and port of a base URL, to be shown: never a user or a password."""
    return urlsplit(url).netloc.rpartition("@")[2]


BaseUrl = Annotated[str, AfterValidator(base_url)]
"""The one rule for addresses of servers, in the routes and in RECTO_ENGINE_URLS."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Target(_Strict):
    """One card behind a public name."""

    card: str
    """The id of a card."""
    urls: tuple[BaseUrl, ...] = ()
    """Base URLs (ending in ``/v1``) of the replicas that run it; none for embedded engines."""
    weight: Annotated[int, Field(ge=0, le=1_000_000)] = 100


class Route(_Strict):
    """A public name's targets."""

    sticky: Literal["org", "file", "request"] = "org"
    """What keeps its target as long as the weights stay; with ``request`` nothing does."""
    targets: Annotated[tuple[Target, ...], Field(min_length=1)]


class Routes(_Strict):
    """The routes file."""

    default: str
    """The public name that a request without a model means."""
    aliases: dict[str, str] = Field(default_factory=dict)
    annotator: str | None = None
    """The public name of a model that annotates for those that cannot."""
    routes: dict[str, Route] = Field(default_factory=dict)


def read_routes(path: Path) -> Routes:
    """Return the routes of a YAML file.

    Raises:
        CardError: with every problem found.
    """
    return read_as(Routes, path)


def pick(route: Route, key: str) -> Target:
    """Return the target for a key: always the same one while the weights stay.

    Weighted rendezvous hashing (Schindelhauer and Schomaker, 2005): when one weight changes,
    only keys that enter or leave that target move.
    """
    return max(route.targets, key=lambda target: _score(target, key))


def _score(target: Target, key: str) -> float:
    if target.weight == 0:
        return 0.0
    digest = hashlib.sha256(f"{target.card}\n{key}".encode()).digest()
    # 53 bits fit a float exactly; the half keeps the share strictly between 0 and 1.
    share = ((int.from_bytes(digest[:8], "big") >> 11) + 0.5) / 2**53
    return -target.weight / math.log(share)
