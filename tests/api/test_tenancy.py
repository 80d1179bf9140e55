"""R12: tenants are separate. Every route, asked by its owner, by another organisation, by nobody.

The routes come from the application itself: one that this file does not know how to call fails.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from pydantic import SecretStr

from files_api.accounts import OrgRecord
from ocr_api import app as ocr_app
from ocr_api.settings import Settings
from tests import helpers
from tests.conftest import ROOT, running
from tests.keys_desk import SECRET, Desk, desk

UNKNOWN = "0193a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b"
PDF = helpers.pages_pdf(1)
PART = b"%PDF-1.7 a part"
Operation = tuple[str, str]
Form = list[tuple[str, tuple[str | None, bytes]]]
"""Names, file names and contents, in the order in which they are sent."""

OF_A_FILE: dict[Operation, dict[str, Any]] = {
    ("GET", "/v1/files/{file_id}"): {},
    ("DELETE", "/v1/files/{file_id}"): {},
    ("GET", "/v1/files/{file_id}/content"): {},
    ("HEAD", "/v1/files/{file_id}/content"): {},
    ("GET", "/v1/files/{file_id}/url"): {},
    ("POST", "/v1/files/{file_id}/ocr"): {"json": {}},
    ("POST", "/v1/ocr"): {"json": {"document": {"type": "file", "file_id": "FILE"}}},
}
"""What to send to a route that is about one file; FILE stands for its id in a body."""
OF_AN_UPLOAD: dict[Operation, dict[str, Any]] = {
    ("POST", "/v1/uploads/{upload_id}/parts"): {"files": {"data": ("upload", PART)}},
    ("POST", "/v1/uploads/{upload_id}/complete"): {"json": {"part_ids": ["PART"]}},
    ("POST", "/v1/uploads/{upload_id}/cancel"): {},
}
LISTS: dict[Operation, dict[str, Any]] = {("GET", "/v1/files"): {}}
MAKES: dict[Operation, dict[str, Any]] = {
    ("POST", "/v1/files"): {"files": {"file": ("a.pdf", PDF)}},
    ("POST", "/v1/uploads"): {
        "json": {
            "bytes": len(PART),
            "filename": "a.pdf",
            "mime_type": "application/pdf",
            "purpose": "user_data",
        }
    },
}
SUMS: dict[Operation, dict[str, Any]] = {("GET", "/v1/usage"): {}}
"""What an organisation used; whose it tells is tried in `test_usage`."""
LOOKS: dict[Operation, dict[str, Any]] = {("GET", "/v1/routes"): {}}
"""For those who look after the service."""
SHARED: dict[Operation, dict[str, Any]] = {
    ("GET", "/v1/models"): {},
    ("GET", "/v1/models/{model_id}"): {},
}
"""Nobody's data: any key will do, and a key it must be."""
WITH_A_KEY = {**OF_A_FILE, **OF_AN_UPLOAD, **LISTS, **MAKES, **SUMS, **LOOKS, **SHARED}
OPEN = {("GET", path) for path in ("/livez", "/readyz", "/health", "/healthz", "/metrics")}
"""What load balancers and collectors ask; it says nothing of anybody's documents."""
PAGES = {(method, path) for method in ("GET", "HEAD") for path in ("/", "/docs", "/openapi.json")}
"""The documentation, with what a browser loads for it below ``/swagger/``."""


@dataclass
class Tenants:
    """The whole service, and the keys of three organisations."""

    client: httpx.AsyncClient
    app: FastAPI
    desk: Desk
    blobs: Path
    orgs: dict[str, OrgRecord] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)

    def held(self) -> int:
        """Return how many blobs the organisations have."""
        folders = [self.blobs / org.id for org in self.orgs.values()]
        return sum(path.is_file() for folder in folders for path in folder.rglob("*"))

    def operations(self) -> set[Operation]:
        """Return every operation of the application, also those that its document leaves out."""
        paths = self.app.openapi()["paths"].items()
        told = {(method.upper(), path) for path, item in paths for method in item}
        routes = [(route.path, route.methods) for route in iter_route_contexts(self.app.routes)]
        found = {(method, path or "") for path, methods in routes for method in methods or ()}
        return {(method, path.replace(":path}", "}")) for method, path in told | found}

    async def call(
        self,
        operation: Operation,
        key: str | None,
        ids: Mapping[str, str] | None = None,
        *,
        org: str | None = None,
        in_body: Mapping[str, Any] | None = None,
        form: Form | None = None,
    ) -> httpx.Response:
        """Call a route with somebody's key (or a key's own text), for some ids."""
        method, path = operation
        ids = {"model_id": "echo", **(ids or {})}
        headers = {"Authorization": f"Bearer {self.keys.get(key, key)}"} if key else {}
        if org is not None:
            headers["X-Org-Id"] = org
        sent = dict(WITH_A_KEY[operation])
        if "json" in sent:
            sent["json"] = _named(sent["json"], ids) | dict(in_body or {})
        if form is not None:
            sent = {"files": form}
        if key is None and method == "POST":
            sent = {"content": unread()}
        return await self.client.request(method, path.format(**ids), headers=headers, **sent)

    async def things(self, operation: Operation, key: str) -> dict[str, str]:
        """Make what a route is about, and return its ids."""
        if operation in OF_A_FILE:
            made = await self.call(("POST", "/v1/files"), key)
            assert made.status_code == 200, made.text
            return {"file_id": made.json()["id"]}
        if operation in OF_AN_UPLOAD:
            made = await self.call(("POST", "/v1/uploads"), key)
            assert made.status_code == 200, made.text
            ids = {"upload_id": made.json()["id"], "part_id": UNKNOWN}
            if operation[1].endswith("/complete"):
                parts = ("POST", "/v1/uploads/{upload_id}/parts")
                ids["part_id"] = (await self.call(parts, key, ids)).json()["id"]
            return ids
        return {}


def _named(body: Any, ids: Mapping[str, str]) -> Any:
    """Return a body with ids in place of the words that stand for them."""
    if isinstance(body, dict):
        return {name: _named(value, ids) for name, value in body.items()}
    if isinstance(body, list):
        return [_named(value, ids) for value in body]
    return {"FILE": ids.get("file_id"), "PART": ids.get("part_id")}.get(body, body)


async def unread() -> AsyncIterator[bytes]:
    raise AssertionError("the body of a stranger was received")
    yield b""


def told(answer: httpx.Response) -> tuple[int, Any, dict[str, str]]:
    """Return all that an answer tells, except the request's id."""
    headers = {name: value for name, value in answer.headers.items() if name != "x-request-id"}
    body: Any = answer.text
    if body:
        body = answer.json()
        body.pop("request_id")
    return answer.status_code, body, headers


def code(answer: httpx.Response) -> tuple[int, str | None]:
    return answer.status_code, answer.json().get("code") if answer.text else None


def refused(answer: httpx.Response, status: int, name: str) -> bool:
    """Tell whether an answer is a refusal, in the body that every known client reads."""
    if answer.status_code != status:
        return False
    if not answer.text:
        return answer.request.method == "HEAD"
    body = answer.json()
    facts = {key: body[key] for key in ("message", "type", "param", "code")}
    return body["error"] == facts and (body["object"], body["code"]) == ("error", name)


@pytest.fixture
async def tenants(database_url: str, tmp_path: Path) -> AsyncIterator[Tenants]:
    models = tmp_path / "models"
    models.mkdir()
    shutil.copy(ROOT / "configs" / "models" / "echo.yaml", models)
    (tmp_path / "routes.yaml").write_text("default: echo\n")
    settings = Settings(
        database_url=database_url,
        data_dir=tmp_path / "data",
        models_dir=models,
        routes=tmp_path / "routes.yaml",
        secret_key=SecretStr(SECRET),
        show_hidden_models=True,
        render_processes=1,
    )
    async with desk(database_url) as opened:
        service = ocr_app.create(settings)
        inner: Any = service
        while not isinstance(inner, FastAPI):
            inner = inner.app
        transport = httpx.ASGITransport(service)
        async with (
            running(service),
            httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client,
        ):
            made = Tenants(client, inner, opened, settings.data_dir / "blobs")
            for name in ("mine", "other", "service"):
                made.orgs[name] = await opened.org(name)
                made.keys[name] = await opened.key(made.orgs[name], service=name == "service")
            yield made


async def test_every_route_is_known_here(tenants: Tenants) -> None:
    """R12 is proven for what this file can call, so that must be everything."""
    found = tenants.operations()
    pages = PAGES | {(method, path) for method, path in found if path.startswith("/swagger/")}
    assert found - WITH_A_KEY.keys() - OPEN - pages == set()
    assert WITH_A_KEY.keys() - found == set()
    document = await tenants.client.get("/openapi.json")
    assert document.status_code == 200


async def test_nobody_and_strangers_are_refused_everywhere(tenants: Tenants) -> None:
    """R12, no key and forged keys: 401, before a byte of the body is received."""
    for operation in sorted(WITH_A_KEY):
        ids = await tenants.things(operation, "mine")
        key = tenants.keys["mine"]
        forged = [f"{key[:-1]}{'A' if key[-1] != 'A' else 'B'}", f"ocr_{'0' * 16}{key[20:]}", "x"]
        for presented in (None, *forged):
            answer = await tenants.call(operation, presented, ids, org=tenants.orgs["mine"].id)
            assert refused(answer, 401, "invalid_api_key"), (operation, presented)
            assert answer.headers["www-authenticate"] == "Bearer"
    for method, path in sorted(OPEN & tenants.operations()):
        assert (await tenants.client.request(method, path)).status_code == 200, path


async def test_anothers_is_as_unknown_as_what_never_was(tenants: Tenants) -> None:
    """R12, own and other: the owner's 200; for anybody else the 404 of an unknown id."""
    for operation in sorted({**OF_A_FILE, **OF_AN_UPLOAD}):
        ids = await tenants.things(operation, "mine")
        unknown = {**ids, "file_id": UNKNOWN, "upload_id": UNKNOWN}
        for stranger, org in (
            ("other", None),
            ("other", tenants.orgs["other"].id),
            ("service", None),
            ("service", tenants.orgs["other"].id),
        ):
            seen = await tenants.call(operation, stranger, ids, org=org)
            never = await tenants.call(operation, stranger, unknown, org=org)
            assert seen.status_code == 404, (operation, stranger, seen.text)
            assert told(seen) == told(never), (operation, stranger)
        own = await tenants.call(operation, "mine", ids)
        assert own.status_code == 200, (operation, own.text)
        theirs = await tenants.things(operation, "mine")
        acting = await tenants.call(
            operation, "service", theirs, org=tenants.orgs["mine"].id.upper()
        )
        assert acting.status_code == 200, (operation, acting.text)


async def test_no_route_takes_anothers_word_for_the_organisation(tenants: Tenants) -> None:
    """R12, forged X-Org-Id: 403, whatever the route, and whether the organisation exists or not."""
    mine, other = tenants.orgs["mine"].id, tenants.orgs["other"].id
    for operation in sorted(WITH_A_KEY):
        ids = await tenants.things(operation, "mine")
        answers = [
            await tenants.call(operation, key, ids, org=org)
            for key, org in (
                ("other", mine), ("other", UNKNOWN), ("other", "x"), ("other", ""),
                ("mine", other), ("service", UNKNOWN), ("service", "x"),
            )
        ]  # fmt: skip
        # Who may not look at all is told that first.
        code = "missing_scope" if operation in LOOKS else "organisation_mismatch"
        for answer in answers:
            assert refused(answer, 403, code), operation
            assert told(answer) == told(answers[0]), operation


async def test_no_body_names_another_organisation(tenants: Tenants) -> None:
    """R12, body org_id: the key's own, or 403, save for a service key that named no other."""
    mine, other = tenants.orgs["mine"].id, tenants.orgs["other"].id
    with_json = [operation for operation, sent in sorted(WITH_A_KEY.items()) if "json" in sent]
    assert len(with_json) == 4
    for operation in with_json:
        for key, header, named, status in (
            ("mine", None, mine, 200),
            ("mine", None, None, 200),
            ("service", None, mine, 200),
            ("service", mine, mine, 200),
            ("other", None, mine, 403),
            ("other", other, mine, 403),
            ("mine", mine, other, 403),
            ("mine", None, UNKNOWN, 403),
            ("mine", None, "x", 403),
            ("mine", None, 5, 403),
            ("service", mine, other, 403),
            ("service", None, UNKNOWN, 403),
        ):
            ids = await tenants.things(operation, "mine")
            places: list[dict[str, Any]] = [{"org_id": named}]
            if operation == ("POST", "/v1/ocr"):
                document = {"type": "file_id", "file_id": ids["file_id"], "org_id": named}
                places += [{"document": document}, {"document": document, "org_id": named}]
            for body in places:
                answer = await tenants.call(operation, key, ids, org=header, in_body=body)
                assert answer.status_code == status, (operation, key, header, body, answer.text)
                if status == 403:
                    assert refused(answer, 403, "organisation_mismatch")
                    assert answer.json()["param"] in ("org_id", "document.org_id")


def forms(operation: Operation, *named: str) -> Iterator[tuple[bool, Form]]:
    """Give a route's form with fields `org_id`, after the file or before it; tell which."""
    file: Form = list(WITH_A_KEY[operation]["files"].items())
    fields: Form = [("org_id", (None, value.encode())) for value in named]
    yield True, file + fields
    yield False, fields + file


async def test_no_form_names_another_organisation(tenants: Tenants) -> None:
    """R12, form field org_id: as in a body; what a service key names stands before the file."""
    mine, other = tenants.orgs["mine"].id, tenants.orgs["other"].id
    with_form = [operation for operation, sent in sorted(WITH_A_KEY.items()) if "files" in sent]
    assert len(with_form) == 2
    for operation in with_form:
        for key, header, named, before, after in (
            ("mine", None, [mine], 200, 200),
            ("mine", None, [mine.upper(), mine], 200, 200),
            ("service", None, [mine], 200, 403),
            ("service", None, [mine, mine], 200, 403),
            ("service", mine, [mine], 200, 200),
            ("other", None, [mine], 403, 403),
            ("other", other, [mine], 403, 403),
            ("mine", mine, [other], 403, 403),
            ("mine", None, [UNKNOWN], 403, 403),
            ("mine", None, ["x"], 403, 403),
            ("mine", None, [""], 403, 403),
            ("mine", None, [mine, other], 403, 403),
            ("service", mine, [other], 403, 403),
            ("service", None, [mine, other], 403, 403),
            ("service", None, [UNKNOWN], 403, 403),
        ):
            ids = await tenants.things(operation, "mine")
            for late, form in forms(operation, *named):
                held = tenants.held()
                answer = await tenants.call(operation, key, ids, org=header, form=form)
                what = (operation, key, header, named, late, answer.text)
                if late and "upload_id" in ids and key != "mine" and header != mine:
                    # The upload is looked for when its bytes begin.
                    assert refused(answer, 404, "upload_not_found"), what
                elif (after if late else before) == 403:
                    assert refused(answer, 403, "organisation_mismatch"), what
                    assert answer.json()["param"] == "org_id"
                else:
                    assert answer.status_code == 200, what
                    assert tenants.held() == held + 1
                    if operation == ("POST", "/v1/files"):
                        made = {"file_id": answer.json()["id"]}
                        about = ("GET", "/v1/files/{file_id}")
                        assert (await tenants.call(about, "mine", made)).status_code == 200
                    continue
                assert tenants.held() == held, what


async def test_a_form_that_names_its_organisation_too_late_is_told_so(tenants: Tenants) -> None:
    operation = ("POST", "/v1/files")
    (_, form), _ = forms(operation, tenants.orgs["mine"].id)
    answer = await tenants.call(operation, "service", form=form)
    assert answer.json()["message"] == "Send org_id before the file, or X-Org-Id."


async def test_a_forms_organisation_has_its_own_idempotency_keys(tenants: Tenants) -> None:
    """R12 for what is remembered: a key that was used for one organisation is new in another."""
    operation = ("POST", "/v1/files")
    made = {}
    for name in ("mine", "other", "mine"):
        (_, _), (_, form) = forms(operation, tenants.orgs[name].id)
        headers = {"X-API-Key": tenants.keys["service"], "Idempotency-Key": "once"}
        answer = await tenants.client.post("/v1/files", headers=headers, files=form)
        assert answer.status_code == 200, answer.text
        assert made.setdefault(name, answer.json()["id"]) == answer.json()["id"]
    assert made["mine"] != made["other"]
    headers = {"X-API-Key": tenants.keys["mine"], "Idempotency-Key": "once"}
    again = await tenants.client.post("/v1/files", headers=headers, **MAKES[operation])
    assert again.json()["id"] == made["mine"]  # however it was named


async def test_a_forms_organisation_has_its_own_room(tenants: Tenants) -> None:
    """R12 for quotas: the file is counted where it lies, and the service key's own is not asked."""
    operation = ("POST", "/v1/files")
    desk = tenants.desk.organisations
    await desk.set_limits(tenants.orgs["service"].id, {"max_files": 1})
    await desk.set_limits(tenants.orgs["other"].id, {"max_files": 1})
    assert (await tenants.call(operation, "service")).status_code == 200
    assert refused(await tenants.call(operation, "service"), 403, "quota_exceeded")
    (_, _), (_, form) = forms(operation, tenants.orgs["other"].id)
    held = tenants.held()
    assert (await tenants.call(operation, "service", form=form)).status_code == 200
    assert refused(await tenants.call(operation, "service", form=form), 403, "quota_exceeded")
    assert tenants.held() == held + 1


async def test_lists_show_ones_own(tenants: Tenants) -> None:
    """R12 for lists: neither the files nor a place among them can be seen by others."""
    (lists,) = LISTS
    ids = [(await tenants.things(("GET", "/v1/files/{file_id}"), "mine"))["file_id"] for _ in "ab"]

    async def listed(key: str, org: str | None = None, **query: Any) -> Any:
        headers = {"X-API-Key": tenants.keys[key]} | ({"X-Org-Id": org} if org else {})
        answer = await tenants.client.request(*lists, headers=headers, params=query)
        body = answer.json()
        body.pop("request_id", None)
        return [item["id"] for item in body["data"]] if "data" in body else body

    assert sorted(await listed("mine")) == sorted(ids)
    assert sorted(await listed("service", tenants.orgs["mine"].id)) == sorted(ids)
    for key, org in (("other", None), ("service", None), ("service", tenants.orgs["other"].id)):
        assert await listed(key, org) == []
        assert await listed(key, org, page=0, page_size=10) == []
        assert await listed(key, org, after=ids[0]) == await listed(key, org, after=UNKNOWN)


async def test_what_is_made_is_ones_own(tenants: Tenants) -> None:
    """R12 for what a service key makes: it belongs to the organisation that it acts for."""
    mine = tenants.orgs["mine"].id
    for operation in sorted(MAKES):
        made = (await tenants.call(operation, "service", org=mine)).json()["id"]
        about, ids = (
            (("GET", "/v1/files/{file_id}"), {"file_id": made})
            if operation[1] == "/v1/files"
            else (("POST", "/v1/uploads/{upload_id}/cancel"), {"upload_id": made})
        )
        assert (await tenants.call(about, "service", ids)).status_code == 404
        assert (await tenants.call(about, "mine", ids)).status_code == 200


async def test_a_signed_link_is_its_own_permission(tenants: Tenants) -> None:
    """R12 for links: who has one needs no key for its file, and it opens nothing else."""
    ids = await tenants.things(("GET", "/v1/files/{file_id}/url"), "mine")
    link = (await tenants.call(("GET", "/v1/files/{file_id}/url"), "mine", ids)).json()["url"]
    assert (await tenants.client.get(link)).content == PDF
    for forged in (
        link.replace(tenants.orgs["mine"].id, tenants.orgs["other"].id),
        link.replace(ids["file_id"], UNKNOWN),
    ):
        assert refused(await tenants.client.get(forged), 403, "invalid_signature")
    read = {"document": {"type": "document_url", "document_url": link}}
    for key in ("other", "service"):
        answer = await tenants.call(("POST", "/v1/ocr"), key, ids, in_body=read)
        assert answer.status_code == 200, answer.text


async def test_each_route_wants_its_scope(tenants: Tenants) -> None:
    """A stored file is read by OCR only with `files:read` beside `ocr`; models with any key."""
    wanted: dict[Operation, set[str]] = {
        **{operation: {"files:read"} for operation in OF_A_FILE},
        **{operation: {"files:write"} for operation in OF_AN_UPLOAD},
        **{operation: {"files:read"} for operation in LISTS},
        **{operation: {"files:write"} for operation in MAKES},
        **{operation: {"ocr"} for operation in SUMS},
        **{operation: {"admin"} for operation in LOOKS},
        **{operation: set() for operation in SHARED},
        ("DELETE", "/v1/files/{file_id}"): {"files:write"},
        ("POST", "/v1/files/{file_id}/ocr"): {"files:read", "ocr"},
        ("POST", "/v1/ocr"): {"files:read", "ocr"},
    }
    sets = ["files:read"], ["files:write"], ["ocr"], ["files:read", "ocr"], ["admin"]
    keys = [(scopes, await tenants.desk.key(tenants.orgs["mine"], *scopes)) for scopes in sets]
    for operation, scopes in sorted(wanted.items()):
        for has, key in keys:
            answer = await tenants.call(operation, key, await tenants.things(operation, "mine"))
            if has == ["admin"] or scopes <= set(has):
                assert answer.status_code == 200, (operation, has, answer.text)
            else:
                assert refused(answer, 403, "missing_scope"), (operation, has)
    link = await tenants.things(("GET", "/v1/files/{file_id}/url"), "mine")
    url = (await tenants.call(("GET", "/v1/files/{file_id}/url"), "mine", link)).json()["url"]
    read = {"document": {"type": "document_url", "document_url": url}}
    answer = await tenants.call(("POST", "/v1/ocr"), keys[2][1], link, in_body=read)
    assert answer.status_code == 200  # `ocr` alone: a link is its own permission


async def test_log_lines_say_who_asked_and_what_failed(
    tenants: Tenants, caplog: pytest.LogCaptureFixture
) -> None:
    """Whose request, by which key; the key itself and the cause's own words stay out."""
    key = tenants.keys["mine"]
    with caplog.at_level("INFO"):
        await tenants.client.get("/v1/files", headers={"X-API-Key": key})
        tenants.blobs.rename(tenants.blobs.with_name("away"))
        answer = await tenants.client.post(
            "/v1/files", headers={"X-API-Key": key}, files={"file": ("secret name.pdf", b"x")}
        )
    assert answer.status_code == 503
    facts = [getattr(record, "facts", {}) for record in caplog.records]
    known = {"org": tenants.orgs["mine"].id, "key": key.split("_")[1]}
    asked = [{name: each.get(name) for name in known} for each in facts if "seconds" in each]
    assert asked == [known, known]
    failed = [each for each in facts if each.get("code") == "storage_unavailable"]
    assert failed == [{"code": "storage_unavailable", "cause": "FileNotFoundError"}]
    said = caplog.text + str(facts)
    assert key not in said
    assert "secret name" not in said
