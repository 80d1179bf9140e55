"""The street of doors: each file speaks one API, and knows no engine and no other door.

A leaf is a file with one class that implements `Door`; all are open unless the settings name
fewer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from fastapi import APIRouter

from files_api.kit.bodies import JsonBodies
from files_api.kit.room import Room
from files_api.limits import Limits
from model_registry.registry import Registry
from ocr_api.pipeline import Pipeline
from ocr_api.traffic import Traffic
from ocr_api.usage import UsageReader

Check = Callable[[], Awaitable[str | None]]
"""Returns what is wrong, or None; an AppError says it too."""

ModelServer = tuple[str, str | None]
"""A card's id, and host and port of a server that runs it; None where the engine needs none."""


async def no_keys() -> bool:
    """Say that no key was ever made."""
    return False


@dataclass(frozen=True, slots=True)
class Services:
    """What the house offers to a door."""

    pipeline: Pipeline
    registry: Registry
    traffic: Traffic
    """The routes as they work now."""
    checks: Mapping[str, Check]
    """By the name of what is checked: what no request can be answered without."""
    model_checks: Callable[[], Mapping[ModelServer, Check]]
    """The same for the servers of models, as the routes name them now."""
    routes: Callable[[], Mapping[str, Sequence[ModelServer]]]
    """The servers that may answer to each public name."""
    bodies: JsonBodies
    """Reads request bodies under the process's bounds."""
    max_answer_bytes: int
    """Longest JSON answer."""
    answers: Room
    """For all those that are in memory."""
    limits: Limits
    """What organisations may ask for; the callers count requests, a door counts pages."""
    usage: UsageReader
    """Sums up what was used."""
    any_keys: Callable[[], Awaitable[bool]] = no_keys
    """Tells whether a key was ever made: strangers are then told no addresses."""


class Door(ABC):
    """One API."""

    reads = True
    """Whether it has documents read, or tells who does; the others are served with the files API,
    too."""

    @abstractmethod
    def router(self, services: Services) -> APIRouter:
        """Return the API's routes."""
