"""Traffic as data: public names, their weighted targets, and the stable pick between them."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from model_registry.card import read_as

DEFAULT = "default"
"""The word in ``aliases`` that stands for whatever the default route is; no name may be it."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Target(_Strict):
    """One card behind a public name."""

    card: str
    """The id of a card."""
    urls: tuple[Annotated[str, Field(pattern=r"^https?://[^\s?#]+$")], ...] = ()
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
