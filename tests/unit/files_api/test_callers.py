"""Who is calling: where a key may stand, what it may do, for which organisation."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, Request
from starlette.types import Message

from files_api.accounts import OrgLimits, OrgRecord, Principal, Scope, ensure_local
from files_api.callers import (
    Callers,
    Reader,
    acting_in_body,
    bearer,
    count_link,
    needs,
    query_token,
    raw_key,
    x_api_key,
)
from files_api.keys import TRUST_SECONDS
from files_api.kit.web import FrontDoor, add_error_handlers, door_route
from files_api.limits import Limits, Rates
from tests.keys_desk import Desk, desk

UNKNOWN = "0193a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b"
READERS: dict[str, tuple[Reader, ...]] = {
    "bearer": (bearer,),
    "x_api_key": (x_api_key,),
    "raw_key": (raw_key,),
    "query_token": (query_token,),
    "both": (bearer, x_api_key),
}


@pytest.fixture
async def one(tmp_path: Path) -> AsyncIterator[Desk]:
    async with desk(f"sqlite:///{tmp_path / 'x.db'}") as opened:
        yield opened


async def app_of(one: Desk) -> FrontDoor:
    """Return a small service: a route for each reader and scope, and one with a body."""
    routes = APIRouter(route_class=door_route())
    for name, readers in READERS.items():
        routes.add_api_route(f"/read/{name}", _telling(needs(readers=readers)))
    scopes: tuple[Scope, ...] = ("files:read", "files:write", "ocr", "admin")
    for scope in scopes:
        routes.add_api_route(f"/scope/{scope}", _telling(needs(scope)))
    routes.add_api_route("/two", _telling(needs("ocr", "files:read")))
    routes.add_api_route("/body", _body, methods=["POST"])
    routes.add_api_route("/link/{org_id}", _link)
    app = FastAPI()
    app.include_router(routes)
    add_error_handlers(app)
    local = await ensure_local(one.database)
    limits = Limits(Rates(), one.clock)
    app.state.callers = Callers(local, one.keys, limits, "https://ocr.example.com")
    return FrontDoor(app)


def _telling(who: Callable[[Request], Any]) -> Callable[..., Any]:
    async def tell(caller: Principal) -> dict[str, Any]:
        return {"org": caller.org_id, "key": caller.key_id, "scopes": sorted(caller.scopes)}

    tell.__annotations__["caller"] = Annotated[Principal, Depends(who)]
    return tell


async def _body(
    request: Request, who: Annotated[Principal, Depends(needs("files:write"))]
) -> dict[str, Any]:
    body = await request.json()
    acting = await acting_in_body(request, who, body)
    return {"org": acting.org_id, "key": acting.key_id}


async def _link(request: Request, org_id: str) -> None:
    await count_link(request, org_id)


@pytest.fixture
async def client(one: Desk) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(await app_of(one))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as made:
        yield made


@pytest.fixture
async def acme(one: Desk) -> OrgRecord:
    return await one.org("acme")


def facts(answer: httpx.Response) -> tuple[int, str | None]:
    return answer.status_code, answer.json().get("code")


NO_KEY = (401, "invalid_api_key")
OTHER_ORG = (403, "organisation_mismatch")


@pytest.mark.parametrize(
    ("form", "headers", "query", "known_to"),
    [
        ("Bearer", {"Authorization": "Bearer KEY"}, "", {"bearer", "both"}),
        ("bearer", {"Authorization": "bearer   KEY "}, "", {"bearer", "both"}),
        ("raw", {"Authorization": "KEY"}, "", {"raw_key"}),
        ("Token", {"Authorization": "Token KEY"}, "", set()),
        ("Basic", {"Authorization": "Basic S0VZOg=="}, "", set()),
        ("header", {"X-API-Key": "KEY"}, "", {"x_api_key", "both"}),
        ("query", {}, "?token=KEY", {"query_token"}),
        ("cookie", {"Cookie": "token=KEY"}, "", set()),
        ("nothing", {}, "", set()),
        ("empty", {"Authorization": "Bearer ", "X-API-Key": ""}, "?token=", set()),
    ],
)
async def test_each_reader_reads_its_own_place(
    one: Desk,
    client: httpx.AsyncClient,
    acme: OrgRecord,
    form: str,
    headers: Mapping[str, str],
    query: str,
    known_to: set[str],
) -> None:
    key = await one.key(acme)
    sent = {name: value.replace("KEY", key) for name, value in headers.items()}
    for name in READERS:
        answer = await client.get(f"/read/{name}{query.replace('KEY', key)}", headers=sent)
        if name in known_to:
            assert answer.json()["org"] == acme.id, name
        else:
            assert facts(answer) == NO_KEY, name
            assert answer.headers["www-authenticate"] == "Bearer"


async def test_the_first_key_that_is_found_counts(
    one: Desk, client: httpx.AsyncClient, acme: OrgRecord
) -> None:
    good = await one.key(acme)
    headers = {"Authorization": f"Bearer {good}", "X-API-Key": "wrong"}
    assert (await client.get("/read/both", headers=headers)).status_code == 200
    headers = {"Authorization": "Bearer wrong", "X-API-Key": good}
    assert facts(await client.get("/read/both", headers=headers)) == NO_KEY


@pytest.mark.parametrize("key", ["é", "\x80\xff", "x" * 5000, "ocr_", "null", '"', "\t"])
async def test_nonsense_is_a_401(
    one: Desk, client: httpx.AsyncClient, acme: OrgRecord, key: str
) -> None:
    await one.key(acme)
    for headers in ({"Authorization": f"Bearer {key}"}, {"X-API-Key": key}):
        sent = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        assert facts(await client.get("/read/both", headers=sent)) == NO_KEY
    assert facts(await client.get("/read/query_token", params={"token": key})) == NO_KEY


@pytest.mark.parametrize("has", [["files:read"], ["files:write"], ["ocr"], ["admin"]])
async def test_a_key_does_what_its_scopes_say(
    one: Desk, client: httpx.AsyncClient, acme: OrgRecord, has: list[str]
) -> None:
    headers = {"X-API-Key": await one.key(acme, *has)}
    for wanted in ("files:read", "files:write", "ocr", "admin"):
        answer = await client.get(f"/scope/{wanted}", headers=headers)
        if has in (["admin"], [wanted]):
            assert answer.json()["scopes"] == has
        else:
            assert facts(answer) == (403, "missing_scope")
            assert answer.json()["message"] == f"The API key lacks the scope {wanted}."
    assert (await client.get("/read/both", headers=headers)).status_code == 200
    if has == ["files:write"]:
        message = (await client.get("/two", headers=headers)).json()["message"]
        assert message == "The API key lacks the scope ocr and files:read."


async def test_without_keys_anything_means_the_local_caller(
    one: Desk, client: httpx.AsyncClient
) -> None:
    local = (await ensure_local(one.database)).org_id
    for headers in ({}, {"Authorization": "Bearer x", "X-Org-Id": UNKNOWN}):
        found = (await client.get("/two", headers=headers)).json()
        assert (found["org"], found["key"]) == (local, None)
        answer = await client.post("/body", headers=headers, json={"org_id": 5})
        assert answer.json() == {"org": local, "key": None}
    for headers in ({"Origin": "https://evil.example"}, {"Host": "evil.example"}):
        assert facts(await client.get("/two", headers=headers)) == (403, "caller_refused")


async def test_with_keys_a_browsers_headers_mean_nothing(
    one: Desk, client: httpx.AsyncClient, acme: OrgRecord
) -> None:
    assert (await client.get("/two")).status_code == 200
    headers = {
        "Authorization": f"Bearer {await one.key(acme)}",
        "Origin": "https://evil.example",
        "Host": "other.example",
        "Sec-Fetch-Site": "cross-site",
    }
    one.clock.now += 3  # by then a running server has seen the first key
    assert (await client.get("/two", headers=headers)).json()["org"] == acme.id
    assert facts(await client.get("/two")) == NO_KEY


async def test_x_org_id_is_a_service_keys(
    one: Desk, client: httpx.AsyncClient, acme: OrgRecord
) -> None:
    other = await one.org("other")
    plain, service = await one.key(other), await one.key(other, service=True)
    for key, named, wanted in (
        (plain, other.id, other.id), (plain, other.id.upper(), other.id),
        (plain, acme.id, None), (plain, UNKNOWN, None), (plain, "x", None), (plain, "", None),
        (service, acme.id, acme.id), (service, other.id, other.id),
        (service, UNKNOWN, None), (service, "x", None), (service, "", None),
    ):  # fmt: skip
        answer = await client.get("/two", headers={"X-API-Key": key, "X-Org-Id": named})
        assert answer.json().get("org") == wanted
        if wanted is None:
            assert facts(answer) == OTHER_ORG
    twice = [("X-API-Key", service), ("X-Org-Id", acme.id), ("X-Org-Id", other.id)]
    assert facts(await client.get("/two", headers=twice)) == OTHER_ORG
    weak = await one.key(other, "ocr", service=True)
    answer = await client.get("/two", headers={"X-API-Key": weak, "X-Org-Id": acme.id})
    assert facts(answer) == (403, "missing_scope")


async def test_an_organisation_in_a_body(
    one: Desk, client: httpx.AsyncClient, acme: OrgRecord
) -> None:
    other = await one.org("other")
    plain, service = await one.key(other), await one.key(other, service=True)
    refused = OTHER_ORG
    for key, header, body, wanted in (
        (plain, None, {}, other.id),
        (plain, None, {"org_id": other.id, "document.org_id": None}, other.id),
        (plain, None, {"org_id": acme.id}, refused),
        (plain, other.id, {"org_id": acme.id}, refused),
        (plain, acme.id, {"org_id": other.id}, refused),
        (plain, None, {"org_id": UNKNOWN}, refused),
        (plain, None, {"org_id": "x"}, refused),
        (plain, None, {"org_id": 5}, refused),
        (plain, None, {"org_id": [other.id]}, refused),
        (plain, None, {"org_id": other.id, "document.org_id": acme.id}, refused),
        (service, None, {}, other.id),
        (service, None, {"org_id": acme.id}, acme.id),
        (service, None, {"document.org_id": acme.id, "org_id": acme.id}, acme.id),
        (service, None, {"document.org_id": acme.id, "org_id": other.id}, refused),
        (service, None, {"org_id": UNKNOWN}, refused),
        (service, acme.id, {"org_id": acme.id}, acme.id),
        (service, acme.id, {"org_id": other.id}, refused),
        (service, other.id, {"org_id": acme.id}, refused),
    ):
        headers = {"X-API-Key": key} | ({"X-Org-Id": header} if header else {})
        answer = await client.post("/body", headers=headers, json=body)
        found = answer.json().get("org") or facts(answer)
        assert found == wanted, (header, body)
        if wanted == refused and header != acme.id:
            assert answer.json()["param"] in body


async def test_requests_are_counted_for_who_is_acted_for(
    one: Desk, client: httpx.AsyncClient
) -> None:
    """The headers tell what is left, on a refusal too; a service key spends the other's rate."""
    acme = await one.org("acme", OrgLimits(requests_per_minute=3))
    other = await one.org("other", OrgLimits(requests_per_minute=100))
    headers = {"X-API-Key": await one.key(other, service=True), "X-Org-Id": acme.id}
    left = []
    for _ in range(4):
        answer = await client.get("/two", headers=headers)
        left.append((answer.status_code, answer.headers["x-ratelimit-remaining-requests"]))
    assert left == [(200, "2"), (200, "1"), (200, "0"), (429, "0")]
    assert facts(answer) == (429, "rate_limit_exceeded")
    assert 0 < int(answer.headers["retry-after"]) <= 120
    del headers["X-Org-Id"]
    answer = await client.get("/two", headers=headers)
    assert (answer.status_code, answer.headers["x-ratelimit-remaining-requests"]) == (200, "99")
    answer = await client.post("/body", headers=headers, json={"org_id": acme.id})
    assert facts(answer) == (429, "rate_limit_exceeded")
    answer = await client.get("/two", headers={"X-API-Key": "wrong"})
    assert not [name for name in answer.headers if name.startswith("x-ratelimit")]


def left(answer: httpx.Response) -> tuple[int, str | None]:
    return answer.status_code, answer.headers.get("x-ratelimit-remaining-requests")


async def test_new_limits_of_the_local_organisation_are_felt_without_a_restart(
    one: Desk, client: httpx.AsyncClient
) -> None:
    assert left(await client.get("/two")) == (200, None)
    local = (await ensure_local(one.database)).org_id
    await one.organisations.set_limits(local, {"requests_per_minute": 2})
    one.clock.now += TRUST_SECONDS
    assert [left(await client.get("/two")) for _ in range(3)] == [
        (200, "1"),
        (200, "0"),
        (429, "0"),
    ]
    await one.organisations.set_limits(local, {"requests_per_minute": 0})
    one.clock.now += TRUST_SECONDS
    assert left(await client.get("/two")) == (200, None)


async def test_links_are_counted_for_their_organisation(
    one: Desk, client: httpx.AsyncClient
) -> None:
    """With its own limits, which no key tells here, and together with its keys' requests."""
    acme = await one.org("acme", OrgLimits(requests_per_minute=3))
    headers = {"X-API-Key": await one.key(acme)}
    assert left(await client.get("/two", headers=headers)) == (200, "2")
    assert left(await client.get(f"/link/{acme.id}")) == (200, "1")
    assert left(await client.get(f"/link/{acme.id}")) == (200, "0")
    answer = await client.get(f"/link/{acme.id}")
    assert (left(answer), facts(answer)) == ((429, "0"), (429, "rate_limit_exceeded"))
    assert left(await client.get("/two", headers=headers)) == (429, "0")
    assert left(await client.get(f"/link/{UNKNOWN}")) == (200, None)


async def test_nobodys_body_is_received(one: Desk, acme: OrgRecord) -> None:
    """Whoever has no key, or not the scope, is refused before a byte of the body is asked for."""
    weak = await one.key(acme, "files:read")
    service = await app_of(one)

    async def receive() -> Message:
        raise AssertionError("the body was asked for")

    for headers, status in (
        ([], 401),
        ([(b"x-api-key", b"wrong")], 401),
        ([(b"x-api-key", weak.encode())], 403),
        ([(b"x-api-key", weak.encode()), (b"x-org-id", UNKNOWN.encode())], 403),
    ):
        sent: list[Message] = []

        async def send(message: Message, sent: list[Message] = sent) -> None:
            sent.append(message)

        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST",
            "scheme": "http", "path": "/body", "raw_path": b"/body", "query_string": b"",
            "headers": [(b"host", b"127.0.0.1"), (b"content-length", b"1000"), *headers],
        }  # fmt: skip
        await service(scope, receive, send)
        assert sent[0]["status"] == status
