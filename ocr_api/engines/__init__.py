"""The street of engines: one drawn page in, one reading out.

A leaf is a file with one class that implements `Engine`; a card names the file. An engine reads
one page at a time per call and brings no parallelism of its own: how many calls run at once is
the pipeline's affair, and worker processes are made by the pool that it is given.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from model_registry.card import Card
from ocr_api.pages import DrawnPage
from ocr_api.processes import Pool
from ocr_api.result import Reading

PoolMaker = Callable[[str, int], Pool]
"""Takes the entry point of a child (``package.module:function``) and its memory limit in bytes;
returns a pool of as many processes as this machine runs engines at a time."""


@dataclass(frozen=True, slots=True)
class PageTask:
    """One page for an engine."""

    page: DrawnPage
    card: Card
    prompt: str | None
    """None where the model takes no prompt."""
    url: str | None = None
    """Base URL of the server that runs the model; None for an embedded engine."""
    request_id: str = ""


class Engine(ABC):
    """Reads pages."""

    places: int | None = None
    """How many pages it can read at once in this process; None where a server decides."""

    def __init__(self, make_pool: PoolMaker) -> None:
        """Keep what the engine needs; start nothing before `start`."""
        self.make_pool = make_pool

    async def start(self) -> None:  # noqa: B027 - most engines need no start
        """Prepare; called once inside the running event loop."""

    @abstractmethod
    async def read(self, task: PageTask) -> Reading:
        """Return what stands on the page.

        Raises:
            EngineUnavailable: the engine does not answer; another try may work.
            PageFailed: this page cannot be read.
        """

    async def problem(self, card: Card, url: str | None) -> str | None:
        """Return why the engine cannot serve the card now, or None."""
        del card, url
        return None

    async def close(self) -> None:  # noqa: B027 - most engines hold nothing
        """Give everything back."""
