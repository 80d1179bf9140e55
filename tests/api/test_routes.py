"""`GET /v1/routes`: for those who look after the service, and for nobody else."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from ocr_api import app as ocr_app
from ocr_api.settings import Settings
from tests.conftest import running
from tests.keys_desk import SECRET, desk

ROUTES = {
    "default": "echo",
    "aliases": {"usual": "house"},
    "routes": {"house": {"sticky": "request", "targets": [{"card": "echo", "weight": 3}]}},
}


@pytest.fixture
def own(settings: Settings, tmp_path: Path) -> Settings:
    """Settings with routes of our own, and a secret."""
    path = tmp_path / "routes.yaml"
    path.write_text(json.dumps(ROUTES))
    url = f"sqlite:///{tmp_path / 'own.db'}"
    facts = {"routes": path, "secret_key": SecretStr(SECRET), "database_url": url}
    return settings.model_copy(update=facts)


@pytest.fixture
async def house(own: Settings) -> AsyncIterator[httpx.AsyncClient]:
    service = ocr_app.create(own)
    transport = httpx.ASGITransport(service)
    async with (
        running(service),
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client,
    ):
        yield client


async def test_without_keys_the_local_caller_sees_the_routes(house: httpx.AsyncClient) -> None:
    answer = await house.get("/v1/routes")
    assert answer.status_code == 200
    body = answer.json()
    assert body["object"] == "list"
    assert set(body["file"]) == {"loaded_at", "wrong"}
    assert body["file"]["wrong"] is None
    found = {route["name"]: route for route in body["data"]}
    assert {name for name, route in found.items() if route["default"]} == {"echo"}
    assert found["house"]["sticky"] == "request"
    assert found["house"]["aliases"] == ["usual"]
    [target] = found["house"]["targets"]
    assert (target["card"], target["weight"], target["share"]) == ("echo", 3, 1.0)
    assert target["servers"] == [
        {"address": None, "in_flight": 0, "limit": None, "circuit": "closed"}
    ]


async def test_only_a_key_of_an_administrator_shows_them(
    own: Settings, house: httpx.AsyncClient
) -> None:
    assert own.database_url
    async with desk(own.database_url) as opened:
        org = await opened.org("one")
        usual, admin = await opened.key(org), await opened.key(org, "admin")
    for key, status, code in (
        (None, 401, "unauthorized"),
        (usual, 403, "scope_missing"),
        (admin, 200, None),
    ):
        headers = {"authorization": f"Bearer {key}"} if key else {}
        answer = await house.get("/v1/routes", headers=headers)
        assert answer.status_code == status, answer.text
        if code:
            assert answer.json()["error"]["code"] == answer.json()["code"]
            assert set(answer.json()) >= {"error", "detail", "request_id", "message"}
