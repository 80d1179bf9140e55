"""The street of engines: one drawn page in, one reading out.

A leaf is a file with one class that implements `Engine`; a card names the file. An engine reads
one page at a time per call and brings no parallelism of its own: how many calls run at once is
the pipeline's affair, and worker processes are made by the pool that it is given.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from files_api.kit.errors import AnnotationUnsupported, PageFailed
from model_registry.card import Card, Sampling
from ocr_api.pages import DrawnPage
from ocr_api.processes import Pool
from ocr_api.result import Reading

PoolMaker = Callable[[str, int], Pool]
"""Takes the entry point of a child (``package.module:function``) and its memory limit in bytes;
returns a pool of as many processes as this machine runs engines at a time."""


AS_THE_SERVER_DOES = Sampling()
"""No field of it is sent."""
MOST_TOKENS = 4096
"""Tokens of an answer where neither the card nor the caller says how many."""


@dataclass(frozen=True, slots=True)
class Supplies:
    """What engines are given when they are made."""

    make_pool: PoolMaker
    api_key: str | None = None
    """Bearer key for the servers that run models."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What an engine is asked, whatever about."""

    card: Card
    prompt: str | None = None
    """None where the model takes no prompt."""
    url: str | None = None
    """Base URL of the server that runs the model; None for an embedded engine."""
    request_id: str = ""
    """Names this try of this page in the server's log."""
    sampling: Sampling = AS_THE_SERVER_DOES
    """How to sample; the whole truth, the card's own is not looked at."""
    max_tokens: int = MOST_TOKENS
    """Most tokens of the answer."""
    max_chars: int | None = None
    """Characters beyond which the answer is implausible and stopped."""
    schema: Mapping[str, Any] | None = None
    """JSON Schema that the answer must fit."""
    want_probabilities: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PageTask(Task):
    """One page to be read."""

    page: DrawnPage


@dataclass(frozen=True, slots=True, kw_only=True)
class Question(Task):
    """Something to be answered in JSON about a text, or about a picture."""

    image: bytes | None = None
    """A JPEG; None where the prompt holds everything."""


@dataclass(frozen=True, slots=True)
class Load:
    """What a server says about its work, whoever sent it."""

    running: int
    """Requests that it answers."""
    waiting: int
    """Requests that it took and does not answer yet."""


class PageRefused(PageFailed):
    """The engine refused the page; it would refuse it again."""


class Engine(ABC):
    """Reads pages."""

    places: int | None = None
    """How many pages it can read at once in this process; None where a server decides."""

    def __init__(self, supplies: Supplies) -> None:
        """Keep what the engine needs; start nothing before `start`."""
        self.supplies = supplies

    async def start(self) -> None:  # noqa: B027 - most engines need no start
        """Prepare; called once inside the running event loop."""

    @abstractmethod
    async def read(self, task: PageTask) -> Reading:
        """Return what stands on the page.

        An answer that loops or grows past ``max_chars`` is stopped at once, where the engine
        can, and says so in its ``finish_reason``.

        Raises:
            EngineUnavailable, EngineBusy: no answer, or no room; another try may work.
            EngineTimeout: the page took longer than its card allows.
            ContextTooLong: page and prompt leave no room for an answer.
            PageFailed: the engine failed on this page, or its answer makes no sense.
        """

    async def ask(self, question: Question) -> Reading:
        """Return the answer to a question; only engines of chat models have one.

        Raises:
            SchemaRefused: the server cannot keep to this schema.
            AppError: as `read` does.
        """
        raise AnnotationUnsupported(f"{question.card.id} cannot annotate documents.")

    async def problem(self, card: Card, url: str | None) -> str | None:
        """Return why the engine cannot serve the card now, or None."""
        del card, url
        return None

    async def load(self, card: Card, url: str) -> Load | None:
        """Return how much work the server has; None where it does not say. Never raises."""
        del card, url
        return None

    async def close(self) -> None:  # noqa: B027 - most engines hold nothing
        """Give everything back."""
