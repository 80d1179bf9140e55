"""What this process counts of pages for Prometheus, on the registry of `files_api.kit.metrics`.

Every value of a label is a time series that is kept for ever. So a label is the id of a card, the
``host:port`` of a server that is configured, or one word of a small set; anything else is counted
as ``other``. No label names an organisation: what one did stands in the database. The names are
those that operators know from other services: base units, and ``_total`` for what only grows.
"""

from __future__ import annotations

from typing import Literal

from prometheus_client import Counter, Gauge, Histogram

from files_api.kit.metrics import REGISTRY

Outcome = Literal["ok", "failed", "reused", "cancelled"]
"""How a page ended: read, not read, taken from what was kept, or dropped with its request."""
Kind = Literal["charged", "wasted", "reused"]
"""Whose tokens: of answers that were used, of answers that were not, of pages read before."""
Direction = Literal["prompt", "completion"]
"""What went to the model, and what came from it."""

OTHER = "other"
"""Stands for every word that is in no set."""
RETRY_REASONS = frozenset(
    {"engine_unavailable", "engine_busy", "engine_timeout", "ocr_failed", "loop", "length"}
)
"""Why a page was asked for again: codes of errors, or what was wrong with an answer."""
REFUSAL_REASONS = frozenset(
    {"org_requests", "org_pages", "all_requests", "all_pages", "no_server", "stopping"}
)
"""Which bound kept a request out: the organisation's own, everybody's, no server, or our end."""
DEATHS = frozenset({"killed", "time", "died", "idle", "worn", "replaced"})
"""How a child process ended: killed from outside, at a limit of time, by its own fault, while it
had nothing to do, after its number of tasks or with too much memory in use, or to make room for a
fresh one."""

# From a page that a constant engine answers to the longest that a card allows.
_PAGE_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 300, 600)

_pages = Counter("ocr_pages_total", "Pages that are done.", ("model", "outcome"), registry=REGISTRY)
_page_seconds = Histogram(
    "ocr_page_duration_seconds",
    "Time of a page from its turn to its reading; pages that were not read are not in it.",
    ("model",),
    buckets=_PAGE_SECONDS,
    registry=REGISTRY,
)
_tokens = Counter(
    "ocr_tokens_total",
    "Tokens of models, as their servers count them.",
    ("model", "direction", "kind"),
    registry=REGISTRY,
)
_retries = Counter(
    "ocr_page_retries_total",
    "Further tries of pages.",
    ("model", "reason"),
    registry=REGISTRY,
)
_waiting = Gauge(
    "ocr_queue_pages_waiting", "Pages that wait for a turn.", ("model",), registry=REGISTRY
)
_working = Gauge("ocr_pages_working", "Pages that have a turn.", ("model",), registry=REGISTRY)
_in_flight = Gauge(
    "ocr_engine_requests_in_flight",
    "Requests that a server is answering.",
    ("model", "replica"),
    registry=REGISTRY,
)
_limit = Gauge(
    "ocr_engine_limit",
    "Requests that a server is given at a time.",
    ("model", "replica"),
    registry=REGISTRY,
)
_open = Gauge(
    "ocr_engine_circuit_open",
    "1 while a server is asked nothing because it failed.",
    ("model", "replica"),
    registry=REGISTRY,
)
_refused = Counter(
    "ocr_admission_refused_total",
    "OCR requests that were refused because there was enough to do.",
    ("reason",),
    registry=REGISTRY,
)
_restarts = Counter(
    "ocr_render_child_restarts_total",
    "Child processes that ended and left their place to another one.",
    ("reason",),
    registry=REGISTRY,
)


def page(card: str, outcome: Outcome, seconds: float) -> None:
    """Count a page that is done.

    Args:
        card: the id of the card that was to read it.
        outcome: how it ended.
        seconds: from its turn to its end; kept of pages that were read or failed, since the time
            of the others says nothing about the model.
    """
    _pages.labels(card, outcome).inc()
    if outcome in ("ok", "failed"):
        _page_seconds.labels(card).observe(seconds)


def tokens(card: str, kind: Kind, direction: Direction, count: int) -> None:
    """Count tokens; what is not above 0 is not counted."""
    if count > 0:
        _tokens.labels(card, direction, kind).inc(count)


def retried(card: str, reason: str) -> None:
    """Count a page that is asked for once more, for one of `RETRY_REASONS`."""
    _retries.labels(card, _known(reason, RETRY_REASONS)).inc()


def queue(card: str, waiting: int, working: int) -> None:
    """Show how many pages of a card wait for a turn now, and how many have one."""
    _waiting.labels(card).set(waiting)
    _working.labels(card).set(working)


def replica(card: str, server: str, in_flight: int, limit: int, is_open: bool) -> None:
    """Show how one server of a card stands now.

    Args:
        card: the id of the card.
        server: ``host:port`` of the server (`model_registry.routing.place`), empty where the
            engine is embedded; never its whole address, which may hold a password.
        in_flight: requests that it is answering.
        limit: the most that it is given at a time.
        is_open: its circuit is open: it is asked nothing.
    """
    _in_flight.labels(card, server).set(in_flight)
    _limit.labels(card, server).set(limit)
    _open.labels(card, server).set(int(is_open))


def admission_refused(why: str) -> None:
    """Count an OCR request that was refused at once, for one of `REFUSAL_REASONS`."""
    _refused.labels(_known(why, REFUSAL_REASONS)).inc()


def child_restarted(reason: str) -> None:
    """Count a child process that ended and is to be replaced, for one of `DEATHS`."""
    _restarts.labels(_known(reason, DEATHS)).inc()


def _known(word: str, words: frozenset[str]) -> str:
    return word if word in words else OTHER
