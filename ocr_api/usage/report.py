"""Sums up what was used, by day or hour and by what else is asked."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, func, select

from files_api.accounts import Principal, read_limits
from files_api.kit.db import Database
from files_api.kit.errors import OrganisationRefused
from files_api.tables import Organisation
from ocr_api.usage.book import UsageBook
from ocr_api.usage.period import Period, wrong
from ocr_api.usage.rows import UsageRow

MOST_BUCKETS: Final = 366
"""Of one page."""
MOST_RESULTS: Final = 5000
"""Of one page; it ends before the bucket that would have more."""
AT_ONCE: Final = 2
"""Questions that a process asks the database at a time, so that reports never take all its
connections; the others wait."""

GROUPS: Final = {
    "org": "org_id",
    "key": "key_id",
    "model": "model",
    "card": "card",
    "outcome": "outcome",
}
"""What usage can be told apart by, and the column of each."""


@dataclass(frozen=True, slots=True)
class Used:
    """Sums over some requests; what they were not told apart by is None."""

    requests: int
    pages: int
    """That were read."""
    pages_reused: int
    pages_failed: int
    prompt_tokens: int
    """Charged, as the next."""
    completion_tokens: int
    reused_prompt_tokens: int
    reused_completion_tokens: int
    wasted_prompt_tokens: int
    wasted_completion_tokens: int
    document_bytes: int
    seconds: float
    """Wall-clock time of the requests."""
    org_id: str | None = None
    key_id: str | None = None
    model: str | None = None
    card: str | None = None
    outcome: str | None = None

    @property
    def total_tokens(self) -> int:
        """Return the charged tokens."""
        return self.prompt_tokens + self.completion_tokens


_SUMMED: Final = (
    UsageRow.pages,
    UsageRow.pages_reused,
    UsageRow.pages_failed,
    UsageRow.prompt_tokens,
    UsageRow.completion_tokens,
    UsageRow.reused_prompt_tokens,
    UsageRow.reused_completion_tokens,
    UsageRow.wasted_prompt_tokens,
    UsageRow.wasted_completion_tokens,
    UsageRow.document_bytes,
    UsageRow.seconds,
)
"""In the order of `Used`."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """What was used from a start to an end, which it does not include; Unix seconds."""

    start: int
    end: int
    results: list[Used]


@dataclass(frozen=True, slots=True)
class Question:
    """Whose usage, and how it is told apart."""

    org_id: str | None
    """None: of all organisations."""
    groups: Sequence[str] = ()
    """Names in `GROUPS`."""
    models: Sequence[str] = ()
    """Only these public names; none is all."""

    def mark(self, width: int) -> str:
        """Return 8 hexadecimal digits that stand for it, for the tokens of its pages."""
        said = repr((self.org_id, list(self.groups), list(self.models), width))
        return sha256(said.encode("utf-8", "surrogatepass")).hexdigest()[:8]


class UsageReader:
    """Answers questions about usage; one for the process."""

    def __init__(self, database: Database, book: UsageBook | None = None) -> None:
        """Take the database, and the book whose waiting rows are written before it is asked.

        Rows of other processes may wait for `ocr_api.usage.SECONDS` more.
        """
        self._database = database
        self._book = book
        self._places = asyncio.Semaphore(AT_ONCE)

    async def organisation(self, who: Principal, named: str | None) -> str | None:
        """Return the organisation that a caller with the scope ``admin`` is shown; None is all.

        Raises:
            OrganisationRefused: none has this id, or the caller may not see it.
            StorageUnavailable: the database does not answer.
        """
        org_id = named.lower() if named is not None and named.isascii() else named
        _check(who, org_id)
        if org_id not in (None, who.org_id) and await self._is_unknown(org_id or ""):
            raise OrganisationRefused("No organisation has this id.", param="org_id")
        return org_id

    async def page(
        self, who: Principal, question: Question, period: Period, most: int = MOST_BUCKETS
    ) -> list[Bucket]:
        """Return a span's first buckets, in order, also the empty ones.

        They are fewer than asked for where they would have more than `MOST_RESULTS`.

        Args:
            who: the caller.
            question: what is asked.
            period: the span.
            most: buckets to return.

        Raises:
            ValidationFailed: the first bucket alone has too many results.
            OrganisationRefused: the caller may not see this organisation.
            StorageUnavailable: the database does not answer, or takes too long.
        """
        _check(who, question.org_id)
        until = period.edge(most)
        async with self._places:
            if self._book is not None:
                await self._book.flush()
            async with self._database.read() as session:
                rows = (await session.execute(_query(question, period, until))).all()
        # In a thread: thousands of results would keep the event loop for too long.
        return await asyncio.to_thread(_buckets, rows, question, period, until)

    async def _is_unknown(self, org_id: str) -> bool:
        return "\0" in org_id or await read_limits(self._database, org_id) is None


def _check(who: Principal, org_id: str | None) -> None:
    """Let a caller see its own organisation; with the scope ``admin``, any and all."""
    if org_id != who.org_id and "admin" not in who.scopes:
        raise OrganisationRefused(param="org_id")


def _query(question: Question, period: Period, until: int) -> Select[*tuple[Any, ...]]:
    """Return the query for the sums of each bucket and group, oldest bucket first."""
    bucket: ColumnElement[int] = UsageRow.created_at // period.width  # both are whole numbers
    columns = [getattr(UsageRow, GROUPS[name]) for name in question.groups]
    # By organisation also where all are asked for: there is an index by organisation and time.
    of_whom = (
        UsageRow.org_id.in_(select(Organisation.id))
        if question.org_id is None
        else UsageRow.org_id == question.org_id
    )
    query = (
        select(bucket.label("bucket"), func.count(), *map(func.sum, _SUMMED), *columns)
        .where(of_whom, UsageRow.created_at >= period.start, UsageRow.created_at < until)
        # By its name: a server cannot know that two expressions with parameters are the same.
        .group_by("bucket", *columns)
        .order_by("bucket")
        .limit(MOST_RESULTS + 1)
    )
    return query.where(UsageRow.model.in_(question.models)) if question.models else query


def _buckets(
    rows: Sequence[Sequence[Any]], question: Question, period: Period, until: int
) -> list[Bucket]:
    """Return the buckets up to an edge, or to where there are too many results."""
    if len(rows) > MOST_RESULTS:
        until = rows[-1][0] * period.width
    if until <= period.start:
        raise wrong(
            "group_by",
            f"A bucket has more than {MOST_RESULTS} results: ask for fewer groups, or a model.",
        )
    found: dict[int, list[Used]] = {}
    for bucket, *facts in rows:
        found.setdefault(bucket, []).append(_used(facts, question.groups))
    columns = [GROUPS[name] for name in question.groups]

    def place(used: Used) -> list[str]:
        return [getattr(used, name) or "" for name in columns]

    # Sorted here: databases differ in how they order texts.
    return [
        Bucket(start, end, sorted(found.get(start // period.width, []), key=place))
        for start, end in period.buckets(until)
    ]


def _used(facts: Sequence[Any], groups: Sequence[str]) -> Used:
    """Return one result from its row: requests, the sums, and what it was told apart by."""
    *counts, seconds = facts[: len(_SUMMED) + 1]
    # PostgreSQL's sums of whole numbers are decimals.
    sums: list[Any] = [*map(int, counts), round(seconds, 3)]
    names = [GROUPS[name] for name in groups]
    told = dict(zip(names, facts[len(sums) :], strict=True))
    return Used(*sums, **told)
