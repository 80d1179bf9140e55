"""Traffic as data: public names, their weighted targets, and the stable pick between them."""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
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
_SERVICE = "dns+"
Sticky = Literal["org", "file", "request"]
"""What keeps its target as long as the weights stay; with ``request`` nothing does."""


def base_url(url: str) -> str:
    """Return the base URL of a server, without a slash at its end.

    ``dns+http`` and ``dns+https`` stand for all servers that the name of the host leads to.

    Raises:
        ValueError: it is none; the message does not repeat it, since it may hold a password.
    """
    scheme, _, rest = url.partition("://")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if "@" in authority:
        raise ValueError("an address holds no user or password; a key is RECTO_ENGINE_API_KEY")
    if any(char in "?#" or char.isspace() or not char.isprintable() for char in url):
        raise ValueError("an address holds no blank, no query (?) and no fragment (#)")
    if scheme.lower().removeprefix(_SERVICE) not in {"http", "https"} or not _is_authority(
        authority
    ):
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


def is_service(url: str) -> bool:
    """Tell whether a base URL stands for all servers that its name leads to."""
    return url.lower().startswith(_SERVICE)


def plain_url(url: str) -> str:
    """Return a base URL as it is asked: without ``dns+``."""
    return url[len(_SERVICE) :] if is_service(url) else url


def place(url: str) -> str:
    """Return host and port of a base URL, to be shown: never a user or a password."""
    return urlsplit(url).netloc.rpartition("@")[2]


BaseUrl = Annotated[str, AfterValidator(base_url)]
"""The one rule for addresses of servers, in the routes and in RECTO_ENGINE_URLS."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Servers(_Strict):
    """A card, and where it runs."""

    card: str
    """The id of a card."""
    urls: tuple[BaseUrl, ...] = ()
    """Base URLs (ending in ``/v1``) of the replicas that run it; none for embedded engines."""


class Target(Servers):
    """One card behind a public name."""

    weight: Annotated[int, Field(ge=0, le=1_000_000)] = 100


class Shadow(Servers):
    """A card that reads a part of a route's pages, too, and never answers."""

    share: Annotated[float, Field(gt=0, le=1)]
    """Part of the pages that it reads."""


class Fallback(_Strict):
    """When a target is left out for a while: rates among the last pages that it read."""

    errors: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Pages that its servers failed to answer."""
    empty: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Pages with print that it read as empty."""
    repetition: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Pages on which it repeated itself, also where another try helped."""
    pages: Annotated[int, Field(ge=1, le=10_000)] = 50
    """The last pages that are looked at; before so many, nothing happens."""
    seconds: Annotated[float, Field(gt=0, le=86_400)] = 300.0
    """How long the target is left out, before it is tried again."""


class Route(_Strict):
    """A public name's targets."""

    sticky: Sticky = "org"
    targets: Annotated[tuple[Target, ...], Field(min_length=1)]
    shadow: tuple[Shadow, ...] = ()
    fallback: Fallback | None = None
    """None: a target is never left out."""


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


def pick(route: Route, key: str, is_away: Callable[[Target], bool] = lambda _: False) -> Target:
    """Return the target for a key: always the same one while the weights stay.

    Weighted rendezvous hashing (Schindelhauer and Schomaker, 2005): when one weight changes,
    only keys that enter or leave that target move.

    Args:
        route: at least one of its targets has a weight.
        key: what is to keep its target.
        is_away: tells which targets are left out; where all are, none is.
    """
    weighted = [number for number, target in enumerate(route.targets) if target.weight]
    there = [number for number in weighted if not is_away(route.targets[number])]
    names = _names(route.targets)
    best = max(
        there or weighted,
        key=lambda number: _score(names[number], route.targets[number].weight, key),
    )
    return route.targets[best]


def _names(targets: Sequence[Target]) -> list[str]:
    """Return what tells the targets apart: the card, with a number where it comes again."""
    seen = Counter[str]()
    names = []
    for target in targets:
        seen[target.card] += 1
        count = seen[target.card]
        names.append(target.card if count == 1 else f"{target.card}#{count}")
    return names


def _score(name: str, weight: int, key: str) -> float:
    digest = hashlib.sha256(f"{name}\n{key}".encode()).digest()
    # 53 bits fit a float exactly; the half keeps the share strictly between 0 and 1.
    share = ((int.from_bytes(digest[:8], "big") >> 11) + 0.5) / 2**53
    return -weight / math.log(share)
