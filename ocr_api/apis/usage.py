"""`GET /v1/usage`: what an organisation used, by day or hour, in pages like OpenAI's usage API.

A key with the scope ``ocr`` sees its organisation; one with ``admin`` sees all of them, or the one
that ``org_id`` or ``X-Org-Id`` names. CSV holds the whole span, without pages.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from files_api.accounts import Principal
from files_api.callers import OcrCaller, acting_in_body, require
from files_api.kit.errors import OrganisationRefused, StorageUnavailable, ValidationFailed
from files_api.kit.web import documented, door_route
from ocr_api.apis import Door, Services
from ocr_api.usage import Question, UsageReader, table
from ocr_api.usage.period import WIDTHS, Period, moment, period_of, resumed, token_of, wrong
from ocr_api.usage.report import MOST_BUCKETS, Bucket

USUAL_BUCKETS = 100
CSV = "text/csv"
_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A page of buckets; as CSV, a line for each result of the whole span.",
        "content": {CSV: {"schema": {"type": "string"}}},
    }
}


def _seconds(value: object) -> int:
    return moment(str(value))


def _words(value: object) -> object:
    """Take repeated parameters and lists with commas alike."""
    if not isinstance(value, list):
        return value
    return [word for part in value for word in str(part).split(",")]


Moment = Annotated[
    int,
    BeforeValidator(_seconds),
    WithJsonSchema({"type": "string", "examples": ["1764547200", "2026-11-22"]}),
]
Group = Literal["model", "card", "key", "outcome", "org"]
ModelName = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00]+$")]


class _Wire(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True, from_attributes=True)


class UsageQuery(_Wire):
    """What is asked; a parameter that is not known here is refused."""

    model_config = ConfigDict(extra="forbid")

    start_time: Moment | None = None
    """Unix seconds, or an ISO 8601 date or time (UTC); by default 30 days before the end."""
    end_time: Moment | None = None
    """The first second that does not count; by default the end of today, or of this hour."""
    bucket_width: Literal["1d", "1h"] = "1d"
    """Days and hours begin in UTC; the span's first and last bucket may be shorter."""
    group_by: Annotated[list[Group], BeforeValidator(_words)] = Field([], max_length=20)
    """Tell results apart by these; repeated, or with commas. `org` needs the scope `admin`."""
    model: list[ModelName] = Field([], max_length=50)
    """Only these public names, as they were asked for; repeated."""
    org_id: str | None = None
    """An organisation; with the scope `admin` any, and all by default."""
    limit: Annotated[int, Field(ge=1, le=MOST_BUCKETS)] = USUAL_BUCKETS
    """Buckets on a page; there may be fewer, where they have many results."""
    page: str | None = None
    """`next_page` of the page before; everything else as it was."""
    format: Literal["json", "csv"] | None = None
    """By default what the header `Accept` names, else JSON. CSV has no pages."""


class UsageResult(_Wire):
    """Sums over the requests of a bucket, or of a group in it."""

    object: Literal["usage.result"] = "usage.result"
    requests: int
    pages: int
    """That were read."""
    pages_reused: int
    """That had been read before, and were not again."""
    pages_failed: int
    prompt_tokens: int
    """Charged, as the next two."""
    completion_tokens: int
    total_tokens: int
    reused_prompt_tokens: int
    """What the reused pages took when they were read, as the next."""
    reused_completion_tokens: int
    wasted_prompt_tokens: int
    """Of answers that were thrown away, as the next."""
    wasted_completion_tokens: int
    document_bytes: int
    seconds: float
    """Wall-clock time of the requests."""
    org_id: str | None
    """Null where results are not told apart by it, as the next four."""
    key_id: str | None
    """Null also for requests without a key."""
    model: str | None
    """The public name that was asked for."""
    card: str | None
    """The card that answered."""
    outcome: str | None


class UsageBucket(_Wire):
    """A day or an hour; without results where nothing was used."""

    object: Literal["bucket"] = "bucket"
    start_time: int = Field(validation_alias="start")
    """Unix seconds."""
    end_time: int = Field(validation_alias="end")
    """Unix seconds; the first that does not count."""
    results: list[UsageResult]


class UsagePage(_Wire):
    """A part of the buckets, oldest first."""

    object: Literal["page"] = "page"
    data: list[UsageBucket]
    has_more: bool
    next_page: str | None


class Usage(Door):
    """Tells what was used."""

    reads = False

    def router(self, services: Services) -> APIRouter:
        """Return the route."""
        reader = services.usage
        router = APIRouter(route_class=door_route(), tags=["usage"])

        @router.get(
            "/v1/usage",
            response_model=UsagePage,
            responses={**documented(ValidationFailed, StorageUnavailable), **_ANSWER},
        )
        async def get_usage(
            request: Request, caller: OcrCaller, query: Annotated[UsageQuery, Query()]
        ) -> Response:
            """Sum up usage by day or hour; unused buckets are there in JSON, and not in CSV.

            A request counts when it has ended, within half a second of its answer.
            """
            return await _answer(reader, request, caller, query)

        return router


async def _answer(
    reader: UsageReader, request: Request, caller: Principal, query: UsageQuery
) -> Response:
    _refuse_repeated(request)
    if "org" in query.group_by:
        require(caller, "admin")
    who, org_id = await _shown(reader, request, caller, query.org_id)
    question = Question(org_id, tuple(dict.fromkeys(query.group_by)), tuple(query.model))
    width = WIDTHS[query.bucket_width]
    if _wants_csv(request, query):
        if {"limit", "page"} & query.model_fields_set:
            raise wrong("page", "CSV has no pages: limit and page are for JSON.")
        period = period_of(query.start_time, query.end_time, width, time.time())
        first = await reader.page(who, question, period)
        return _csv_file(reader, who, question, period, first)
    mark = question.mark(width)
    if query.page is None:
        period = period_of(query.start_time, query.end_time, width, time.time())
    else:
        period = resumed(query.page, query.start_time, query.end_time, width, mark)
    buckets = await reader.page(who, question, period, query.limit)
    end = buckets[-1].end
    token = token_of(period, end, mark) if end < period.end else None
    # In threads, here and below: thousands of results would keep the event loop for too long.
    body = await asyncio.to_thread(_json, buckets, token)
    return Response(body, media_type="application/json")


def _json(buckets: list[Bucket], next_page: str | None) -> str:
    data = [UsageBucket.model_validate(bucket) for bucket in buckets]
    page = UsagePage(data=data, has_more=next_page is not None, next_page=next_page)
    return page.model_dump_json()


def _refuse_repeated(request: Request) -> None:
    """Refuse what stands twice in the address, where one of them would silently win."""
    for name in UsageQuery.model_fields.keys() - {"group_by", "model"}:
        if len(request.query_params.getlist(name)) > 1:
            raise wrong(name, f"{name} may be given once.")


async def _shown(
    reader: UsageReader, request: Request, caller: Principal, named: str | None
) -> tuple[Principal, str | None]:
    """Return for whom the caller acts, and whose usage is shown; None is all organisations.

    Raises:
        OrganisationRefused: the caller may not see this organisation, or there is none.
    """
    if caller.key_id is None or "admin" not in caller.scopes:
        acting = await acting_in_body(request, caller, {"org_id": named})
        return acting, acting.org_id
    if "x-org-id" not in request.headers:
        return caller, await reader.organisation(caller, named)
    if named is not None and named.lower() != caller.org_id:
        raise OrganisationRefused(param="org_id")
    return caller, caller.org_id


def _wants_csv(request: Request, query: UsageQuery) -> bool:
    """Tell whether CSV is asked for: by `format`, else by an ``Accept`` that names no JSON."""
    if query.format is not None:
        return query.format == "csv"
    offers = ",".join(request.headers.getlist("accept")).lower().split(",")
    kinds = {offer.partition(";")[0].strip() for offer in offers}
    return CSV in kinds and "application/json" not in kinds


def _csv_file(
    reader: UsageReader, who: Principal, question: Question, period: Period, first: list[Bucket]
) -> Response:
    """Return the whole span as a file; what fails behind its first part cuts the answer short."""
    days = "_".join(table.iso(seconds)[:10] for seconds in (period.start, period.end))

    async def parts() -> AsyncIterator[str]:
        buckets = first
        yield table.header(question.groups)
        yield await asyncio.to_thread(table.body, buckets, question.groups)
        while buckets[-1].end < period.end:
            buckets = await reader.page(who, question, period.behind(buckets[-1].end))
            yield await asyncio.to_thread(table.body, buckets, question.groups)

    headers = {"Content-Disposition": f'attachment; filename="usage_{days}.csv"'}
    return StreamingResponse(parts(), media_type=table.MEDIA_TYPE, headers=headers)
