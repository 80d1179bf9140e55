"""`GET /v1/usage`: whose usage, from when to when, told apart by what, in pages and as CSV."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy import insert

from files_api.accounts import OrgRecord
from files_api.kit.ids import new_id
from ocr_api import app as ocr_app
from ocr_api.settings import Settings
from ocr_api.usage import UsageRow, report, table
from tests import helpers
from tests.conftest import running
from tests.keys_desk import SECRET, Desk, desk

DAY = 86_400
START = 1_792_800_000
"""2026-10-24, the first second."""
SPAN = {"start_time": "2026-10-24", "end_time": "2026-10-29"}
SUMS: dict[str, Any] = {
    "object": "usage.result",
    "pages_reused": 0,
    "pages_failed": 0,
    "reused_prompt_tokens": 0,
    "reused_completion_tokens": 0,
    "wasted_prompt_tokens": 0,
    "wasted_completion_tokens": 0,
    "org_id": None,
    "key_id": None,
    "model": None,
    "card": None,
    "outcome": None,
}


@dataclass
class Office:
    """The service, two organisations and their keys, and rows on several days."""

    client: httpx.AsyncClient
    desk: Desk
    mine: OrgRecord
    other: OrgRecord
    keys: Mapping[str, str]

    async def ask(self, key: str, org: str | None = None, **query: Any) -> httpx.Response:
        headers = {"X-API-Key": self.keys[key]} | ({"X-Org-Id": org} if org else {})
        return await self.client.get("/v1/usage", headers=headers, params=query)

    async def told(self, key: str, org: str | None = None, **query: Any) -> Any:
        answer = await self.ask(key, org, **{**SPAN, **query})
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def counts(self, key: str, org: str | None = None, **query: Any) -> list[int]:
        """Return the requests of each bucket."""
        body = await self.told(key, org, **query)
        return [sum(one["requests"] for one in bucket["results"]) for bucket in body["data"]]

    async def add(self, org: OrgRecord, day: int, **other: Any) -> None:
        """Write a row on a day after `START`."""
        usual = {"model": "m", "card": "c", "outcome": "ok", "key_id": "k", "pages": 2}
        counted = {"prompt_tokens": 10, "completion_tokens": 1, "document_bytes": 100}
        made = {"id": new_id(), "org_id": org.id, "request_id": "r", "seconds": 0.5}
        row = made | usual | counted | {"created_at": START + day * DAY} | other
        async with self.desk.database.unit() as session:
            await session.execute(insert(UsageRow), [row])


@pytest.fixture
async def office(database_url: str, settings: Settings) -> AsyncIterator[Office]:
    settings = settings.model_copy(
        update={"database_url": database_url, "secret_key": SecretStr(SECRET)}
    )
    async with desk(database_url) as opened:
        mine, other = await opened.org("mine"), await opened.org("other")
        keys = {
            "mine": await opened.key(mine, "ocr"),
            "other": await opened.key(other, "ocr"),
            "files": await opened.key(mine, "files:read", "files:write"),
            "service": await opened.key(other, "ocr", service=True),
            "admin": await opened.key(other, "admin"),
            "both": await opened.key(other, "admin", service=True),
        }
        service = ocr_app.create(settings)
        transport = httpx.ASGITransport(service)
        async with (
            running(service),
            httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client,
        ):
            made = Office(client, opened, mine, other, keys)
            await made.add(mine, 0)
            await made.add(mine, 0, model="b", outcome="failed", pages_failed=1, key_id="l")
            await made.add(mine, 2, wasted_prompt_tokens=4, reused_completion_tokens=3)
            await made.add(other, 2)
            yield made


def check_refusal(answer: httpx.Response, status: int, code: str, param: str | None = None) -> None:
    """Check the error superset."""
    body = answer.json()
    facts = {name: body[name] for name in ("message", "type", "param", "code")}
    assert (answer.status_code, facts["code"], facts["param"]) == (status, code, param), body
    assert (body["object"], body["error"]) == ("error", facts)
    if status == 422:
        assert [item["loc"][0] for item in body["detail"]] == ["query"] * len(body["detail"])


# --- what is told ---------------------------------------------------------------------------------


async def test_a_page_of_days(office: Office) -> None:
    body = await office.told("mine")
    one = SUMS | {"requests": 1, "pages": 2, "prompt_tokens": 10, "completion_tokens": 1}
    one |= {"total_tokens": 11, "document_bytes": 100, "seconds": 0.5}
    two = SUMS | {"requests": 2, "pages": 4, "prompt_tokens": 20, "completion_tokens": 2}
    two |= {"total_tokens": 22, "document_bytes": 200, "seconds": 1.0, "pages_failed": 1}
    third = one | {"wasted_prompt_tokens": 4, "reused_completion_tokens": 3}
    days = [(START + day * DAY, START + (day + 1) * DAY) for day in range(5)]
    assert body == {
        "object": "page",
        "data": [
            {"object": "bucket", "start_time": start, "end_time": end, "results": results}
            for (start, end), results in zip(days, ([two], [], [third], [], []), strict=True)
        ],
        "has_more": False,
        "next_page": None,
    }


async def test_a_request_is_told_at_once(client: httpx.AsyncClient) -> None:
    """What the local caller read: the row is written before the database is asked."""
    files = {"file": ("a.pdf", helpers.pages_pdf(3))}
    made = (await client.post("/v1/files", files=files)).json()["id"]
    read = await client.post(f"/v1/files/{made}/ocr", json={"model": "echo", "pages": [0, 2]})
    answer = await client.get("/v1/usage?group_by=model,card,outcome&group_by=key")
    assert answer.status_code == 200
    body = answer.json()
    assert [bucket["end_time"] % DAY for bucket in body["data"]] == [0] * 30
    assert body["data"][-1]["end_time"] > time.time() - 60
    (used,) = [used for bucket in body["data"] for used in bucket["results"]]
    assert {name: used[name] for name in read.json()["usage"]} == read.json()["usage"]
    assert used["completion_tokens"] > 0
    assert (used["requests"], used["pages"], used["document_bytes"]) == (
        1, 2, len(helpers.pages_pdf(3)),
    )  # fmt: skip
    names = [used[name] for name in ("model", "card", "outcome", "key_id", "org_id")]
    assert names == ["echo", "echo", "ok", None, None]


async def test_without_keys_any_organisation_means_the_local_one(client: httpx.AsyncClient) -> None:
    for query in ({}, {"org_id": "x"}, {"group_by": "org"}):
        answer = await client.get("/v1/usage", params=query, headers={"X-Org-Id": "y"})
        assert answer.status_code == 200, answer.text
        assert len(answer.json()["data"]) == 30


async def test_times_and_widths(office: Office) -> None:
    day = [START, START + DAY]
    asked: list[dict[str, Any]] = [
        {"start_time": START, "end_time": START + DAY},
        {"start_time": "2026-10-24", "end_time": "2026-10-25T00:00:00Z"},
        {"start_time": "2026-10-24T02:00:00+02:00", "end_time": "2026-10-25 00:00"},
    ]
    for span in asked:
        (bucket,) = (await office.told("mine", **span))["data"]
        assert [bucket["start_time"], bucket["end_time"]] == day
    assert await office.counts("mine", end_time=START + 1, start_time=START) == [2]
    assert await office.counts("mine", start_time=START + 1, end_time=START + DAY) == [0]
    hours = await office.counts("mine", bucket_width="1h", start_time=START - 1800)
    assert hours[:3] == [0, 2, 0]
    assert sum(hours) == 3
    last = (await office.told("mine", start_time="2026-10-28", end_time=START + 10 * DAY + 5))[
        "data"
    ]
    assert last[-1]["end_time"] - last[-1]["start_time"] == 5


async def test_groups_and_models(office: Office) -> None:
    body = await office.told("mine", group_by=["model", "outcome"])
    facts = [
        (one["model"], one["outcome"], one["card"], one["requests"])
        for one in body["data"][0]["results"]
    ]
    assert facts == [("b", "failed", None, 1), ("m", "ok", None, 1)]
    assert body == await office.told("mine", group_by="model,outcome,model")
    assert await office.counts("mine", model="b") == [1, 0, 0, 0, 0]
    assert await office.counts("mine", model=["b", "m"]) == [2, 0, 1, 0, 0]
    keys = await office.told("mine", group_by="key")
    assert [one["key_id"] for one in keys["data"][0]["results"]] == ["k", "l"]


async def test_pages_follow_each_other(office: Office) -> None:
    whole = (await office.told("mine", group_by="model"))["data"]
    query: dict[str, Any] = {"group_by": "model", "limit": 2}
    seen, pages = [], 0
    body: dict[str, Any] = {"has_more": True}
    while body["has_more"]:
        body = await office.told("mine", **query)
        seen += body["data"]
        pages += 1
        query["page"] = body["next_page"]
    assert (pages, seen) == (3, whole)
    again = await office.told("mine", group_by="model", limit=2)
    alone = {"page": again["next_page"], "group_by": "model"}  # the span is the token's
    assert (await office.ask("mine", **alone)).json()["data"] == whole[2:]
    for other in (
        {"group_by": "card"}, {"model": "b", "group_by": "model"}, {"bucket_width": "1h"},
        {"start_time": "2026-10-27"}, {"end_time": "2026-10-28"},
    ):  # fmt: skip
        answer = await office.ask("mine", **{"group_by": "model", **other, "page": alone["page"]})
        check_refusal(answer, 422, "validation_error", "page")


# --- R12: whose usage -----------------------------------------------------------------------------


async def test_r12_own_and_others(office: Office) -> None:
    mine, other = office.mine.id, office.other.id
    own, theirs, both = [2, 0, 1, 0, 0], [0, 0, 1, 0, 0], [2, 0, 2, 0, 0]
    assert await office.counts("mine") == own
    assert await office.counts("mine", mine, org_id=mine.upper()) == own
    for key in ("other", "service"):
        assert await office.counts(key) == theirs
        assert await office.counts(key, org_id=other) == theirs
    assert await office.counts("service", mine) == own
    assert await office.counts("service", org_id=mine) == own
    for key in ("admin", "both"):
        assert await office.counts(key) == both
        assert await office.counts(key, org_id=mine) == own
        assert await office.counts(key, org_id=other.upper()) == theirs
        assert await office.counts(key, other) == theirs
        by_org = await office.told(key, group_by="org")
        told = {one["org_id"]: one["requests"] for one in by_org["data"][2]["results"]}
        assert told == {mine: 1, other: 1}
    assert await office.counts("both", mine) == own
    assert await office.counts("both", mine, org_id=mine) == own


async def test_r12_refusals(office: Office) -> None:
    mine, other = office.mine.id, office.other.id
    for key, header, named in (
        ("mine", None, other), ("mine", mine, other), ("mine", None, "x"), ("mine", None, ""),
        ("service", mine, other), ("service", None, new_id()), ("service", None, "\0"),
        ("admin", None, new_id()), ("admin", None, "x"), ("admin", None, ""),
        ("admin", None, "\0"), ("admin", other, mine), ("both", mine, other),
    ):  # fmt: skip
        answer = await office.ask(key, header, org_id=named, **SPAN)
        check_refusal(answer, 403, "organisation_mismatch", "org_id")
    for key, header in (("mine", other), ("admin", mine), ("both", new_id())):
        check_refusal(await office.ask(key, header, **SPAN), 403, "organisation_mismatch")
    for key, query in (
        ("files", {}),
        ("mine", {"group_by": "org"}),
        ("service", {"group_by": "org"}),
    ):
        check_refusal(await office.ask(key, **query), 403, "missing_scope")
    nobody = await office.client.get("/v1/usage", params=SPAN)
    check_refusal(nobody, 401, "invalid_api_key")


async def test_r12_a_page_of_all_is_no_page_of_one(office: Office) -> None:
    """A token names no organisation: what it leads to is its reader's own."""
    token = (await office.told("admin", limit=1))["next_page"]
    check_refusal(await office.ask("mine", page=token), 422, "validation_error", "page")
    token = (await office.told("mine", limit=2))["next_page"]
    check_refusal(await office.ask("other", page=token), 422, "validation_error", "page")


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("start_time=yesterday", "start_time"),
        ("start_time=", "start_time"),
        ("start_time=20261122", "start_time"),
        ("start_time=1792800000000", "start_time"),
        ("start_time=2026-10-24T02:00:00+02:00", "start_time"),  # this + is a blank
        ("end_time=2026-11-31", "end_time"),
        ("end_time=2020-01-01&start_time=2020-01-01", "start_time"),
        ("start_time=2015-01-01&end_time=2025-06-01", "start_time"),
        ("start_time=2099-01-01", "start_time"),
        ("start_time=2026-10-24&start_time=2026-10-25", "start_time"),
        ("org_id=x&org_id=y", "org_id"),
        ("start_tme=2026-10-24", "start_tme"),
        ("start=2026-10-24", "start"),
        ("Start_Time=2026-10-24", "Start_Time"),
        ("api_key_ids=k", "api_key_ids"),
        ("bucket_width=1m", "bucket_width"),
        ("bucket_width=", "bucket_width"),
        ("limit=0", "limit"),
        ("limit=367", "limit"),
        ("limit=x", "limit"),
        ("group_by=day", "group_by.0"),
        ("group_by=", "group_by.0"),
        ("group_by=model,", "group_by.1"),
        ("model=", "model.0"),
        ("model=%00", "model.0"),
        ("model=" + "x" * 201, "model.0"),
        ("&".join(["model=x"] * 51), "model"),
        ("format=xml", "format"),
        ("page=x", "page"),
        ("page=", "page"),
        ("format=csv&limit=5", "page"),
        ("format=csv&page=1792886400-1793232000-00000000", "page"),
    ],
)
async def test_what_cannot_be_asked(client: httpx.AsyncClient, query: str, param: str) -> None:
    answer = await client.get(f"/v1/usage?{query}")
    check_refusal(answer, 422, "validation_error", param)
    assert answer.json()["message"]


async def test_a_bucket_with_too_much(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "MOST_RESULTS", 1)
    answer = await office.ask("mine", group_by="model", **SPAN)
    check_refusal(answer, 422, "validation_error", "group_by")
    assert await office.counts("mine") == [2, 0]  # and more on the next page


async def test_a_database_that_is_away(client: httpx.AsyncClient, settings: Settings) -> None:
    """R7."""
    assert (await client.get("/v1/usage")).status_code == 200
    path = settings.data_dir / "recto.db"
    assert path.exists()
    path.rename(path.with_name("away"))
    answer = await client.get("/v1/usage")
    check_refusal(answer, 503, "storage_unavailable")
    path.with_name("away").rename(path)
    assert (await client.get("/v1/usage")).status_code == 200


# --- CSV ------------------------------------------------------------------------------------------


async def test_csv(office: Office) -> None:
    await office.add(office.mine, 3, model='=HYPERLINK("x")', pages=9)
    answer = await office.ask("mine", format="csv", group_by="model,key", **SPAN)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/csv; charset=utf-8; header=present"
    assert answer.headers["content-disposition"] == (
        'attachment; filename="usage_2026-10-24_2026-10-29.csv"'
    )
    columns = ",".join(table.COUNTS)
    formula = '"\'=HYPERLINK(""x"")"'
    lines = [
        f"start_time,end_time,model,key_id,{columns}",
        "2026-10-24T00:00:00Z,2026-10-25T00:00:00Z,b,l,1,2,0,1,10,1,11,0,0,0,0,100,0.5",
        "2026-10-24T00:00:00Z,2026-10-25T00:00:00Z,m,k,1,2,0,0,10,1,11,0,0,0,0,100,0.5",
        "2026-10-26T00:00:00Z,2026-10-27T00:00:00Z,m,k,1,2,0,0,10,1,11,0,3,4,0,100,0.5",
        f"2026-10-27T00:00:00Z,2026-10-28T00:00:00Z,{formula},k,1,9,0,0,10,1,11,0,0,0,0,100,0.5",
    ]
    assert answer.content.decode() == "".join(f"{line}\r\n" for line in lines)


async def test_csv_holds_the_whole_span(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    """In several parts, each a question of its own: hours, and where results are many."""
    span = {"start_time": "2026-09-20", "end_time": "2026-10-29"}
    monkeypatch.setattr(report, "MOST_RESULTS", 2)
    for width, group in (("1h", "model"), ("1d", "model"), ("1d", "org")):
        answer = await office.ask("admin", format="csv", bucket_width=width, group_by=group, **span)
        rows = list(csv.DictReader(io.StringIO(answer.text, newline="")))
        assert sum(int(row["requests"]) for row in rows) == 4
        times = [row["start_time"] for row in rows]
        assert times == sorted(times)
    nothing = await office.ask(
        "admin", format="csv", start_time=1_000_000_000, end_time="2001-10-01"
    )
    assert nothing.text.count("\r\n") == 1


@pytest.mark.parametrize(
    ("accept", "query", "kind"),
    [
        ("text/csv", "", "text/csv"),
        ("Text/CSV;q=0.9, */*;q=0.1", "", "text/csv"),
        ("text/csv", "format=json", "application/json"),
        ("application/json, text/csv", "", "application/json"),
        ("*/*", "", "application/json"),
        ("*/*", "format=csv", "text/csv"),
        ("application/json", "format=csv", "text/csv"),
    ],
)
async def test_who_gets_csv(client: httpx.AsyncClient, accept: str, query: str, kind: str) -> None:
    answer = await client.get(f"/v1/usage?{query}", headers={"Accept": accept})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith(kind)


async def test_the_document_tells_all(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    asked = document["paths"]["/v1/usage"]["get"]
    assert set(asked["responses"]) == {"200", "401", "403", "422", "429", "500", "503"}
    content = asked["responses"]["200"]["content"]
    assert content["application/json"]["schema"]["$ref"].endswith("/UsagePage")
    assert content["text/csv"] == {"schema": {"type": "string"}}
    names = [parameter["name"] for parameter in asked["parameters"]]
    assert names == [
        *("start_time", "end_time", "bucket_width", "group_by", "model", "org_id"),
        *("limit", "page", "format"),
    ]
    assert all(parameter["description"] for parameter in asked["parameters"])
