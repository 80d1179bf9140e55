"""The stages of a page, timed: a sample for Prometheus each, and a span where traces are on.

What each one covers: ``fetch``: a document comes to our disk and is looked at, once for all of
its pages; ``render``: a page is drawn, with the wait for a drawing process; ``infer``: one
question to one server, without the wait for a place there, which the queue's gauges show; a page
that is asked for again has several; ``post``: the answer is parsed and the page assembled;
``total``: the page from its turn, questions of an annotation and waits for places in it.

What was cancelled has no sample: its time says when a caller left. What failed has one, since a
server that hangs until the limit must be seen.
"""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Callable
from functools import lru_cache
from time import perf_counter
from types import TracebackType
from urllib.parse import urlsplit

from files_api.kit import traces
from files_api.kit.errors import AppError
from files_api.kit.traces import NOTHING, Span
from ocr_api import genai, meters
from ocr_api.result import Reading

MODEL, PAGE, OUTCOME = "recto.card", "recto.page.index", "recto.page.outcome"
"""Our own attributes: the id of a card, the page counted from 0, and what came of it."""
SERVERS = 1024
"""Addresses whose parts are remembered."""
_PORTS = {"http": 80, "https": 443}


class Stage:
    """One stage, for a ``with`` block."""

    __slots__ = ("_before", "_begun", "_card", "_name", "span")

    def __init__(self, name: meters.Stage, card: str, span: Span, before: float = 0.0) -> None:
        self.span = span
        self._name: meters.Stage = name
        self._card = card
        self._before = before
        self._begun = 0.0

    def __enter__(self) -> Stage:
        """Begin."""
        self.span.__enter__()
        self._begun = perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End, and note how long it took."""
        if not isinstance(error, CancelledError):
            meters.stage(self._name, self._card, self._before + perf_counter() - self._begun)
        self.span.__exit__(kind, error, trace)

    def answered(self, reading: Reading) -> None:
        """Note what a question took."""
        if self.span is NOTHING:
            return
        facts: dict[str, traces.Value] = {
            genai.INPUT_TOKENS: reading.usage.prompt_tokens,
            genai.OUTPUT_TOKENS: reading.usage.completion_tokens,
            genai.FINISH_REASONS: (reading.finish_reason,),
        }
        self.span.note(facts)


class Total:
    """The whole of a page, for a ``with`` block; it begins with the page's turn."""

    __slots__ = ("_begun", "_card", "_index", "_reused", "_span")

    def __init__(self, card: str, index: int) -> None:
        self._card = card
        self._index = index
        self._begun: float | None = None
        self._reused = False
        self._span: Span = NOTHING

    def __enter__(self) -> Total:
        """Wait for the turn."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End; a page that never had its turn has no time, one that is reused says nothing."""
        if self._begun is None:
            return
        if not self._reused and not isinstance(error, CancelledError):
            meters.stage("total", self._card, perf_counter() - self._begun)
        self._span.__exit__(kind, error, trace)

    def then(self, started: Callable[[], None]) -> Callable[[], None]:
        """Return what is to be called at the turn, and calls ``started``."""

        def begin() -> None:
            if self._begun is None:
                self._span = _span("page", self._card, self._index)
                self._span.__enter__()
            self._begun = perf_counter()
            started()

        return begin

    def done(self, outcome: meters.Outcome, error: AppError | None = None) -> None:
        """Say what came of the page, and why there is none."""
        self._reused = outcome == "reused"
        self._span.note({OUTCOME: outcome})
        if error is not None:
            self._span.fail(error.code)


def stage(name: meters.Stage, card: str, page: int | None = None, *, before: float = 0.0) -> Stage:
    """Return one stage of a page.

    Args:
        name: which.
        card: the id of the card that reads it.
        page: its index, counted from 0; None for what is done once for a document.
        before: seconds that belong to the stage and have passed already.
    """
    return Stage(name, card, _span(name, card, page), before)


def question(card: str, url: str | None, page: int | None = None) -> Stage:
    """Return the stage ``infer``: one question to one server, or to an engine in this process.

    Args:
        card: the id of the card that is asked.
        url: base URL of the server; None for an embedded engine. Only host and port are noted.
        page: about which page, counted from 0; None where it is about more.
    """
    if url is None or not traces.is_on():
        return stage("infer", card, page)
    host, port = _server(url)
    facts: dict[str, traces.Value] = {
        MODEL: card,
        genai.OPERATION_NAME: genai.CHAT,
        genai.PROVIDER_NAME: "vllm",
        genai.REQUEST_MODEL: card,
        genai.SERVER_ADDRESS: host,
        genai.SERVER_PORT: port,
    }
    if page is not None:
        facts[PAGE] = page
    return Stage("infer", card, traces.span(f"{genai.CHAT} {card}", "client", facts))


def _span(name: str, card: str, page: int | None) -> Span:
    if not traces.is_on():
        return NOTHING
    return traces.span(name, attributes={MODEL: card} | ({} if page is None else {PAGE: page}))


@lru_cache(SERVERS)
def _server(url: str) -> tuple[str, int]:
    """Return the host and the port of a server, without anything else of its address."""
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 0)
