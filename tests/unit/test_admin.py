"""`recto orgs`, `recto keys`, `recto db`: what an operator types, and what comes of it."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner, Result
from sqlalchemy.engine import make_url

from files_api.accounts import LOCAL_ORG_ID
from files_api.keys import Keys
from files_api.kit.db import Database
from files_api.kit.errors import Unauthorized
from ocr_api import checks, migrations
from ocr_api.cli import main
from ocr_api.settings import Settings
from tests.conftest import ROOT

KEY = re.compile(r"ocr_[0-9a-f]{16}_[0-9A-Za-z]{43}\n")
NO_KEYS = "no API keys are configured"


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RECTO_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


def recto(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def done(*arguments: object) -> str:
    """Run a command that succeeds; return its standard output."""
    result = recto(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def problem(*arguments: object) -> str:
    """Run a command that fails; return its one line."""
    result = recto(*arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("recto: ")
    assert result.stderr.count("\n") == 1
    return result.stderr.removeprefix("recto: ").strip()


def row(listing: str, word: str) -> list[str]:
    (line,) = [line for line in listing.splitlines() if word in line]
    return re.split(r"  +", line)


def check(key: str) -> str:
    """Return whose key it is, as the service of these settings finds it."""

    async def find() -> str:
        settings = Settings()
        database = Database(settings.effective_database_url())
        found = Keys(database, (settings.data_dir / "secret.key").read_bytes())
        try:
            return (await found.principal(key)).org_id
        finally:
            await found.close()
            await database.close()

    return asyncio.run(find())


def test_the_very_first_command_makes_everything(data: Path) -> None:
    org_id = done("orgs", "create", "acme").strip()
    assert re.fullmatch("[0-9a-f-]{36}", org_id)
    result = recto("keys", "create", "--org", "acme")
    assert KEY.fullmatch(result.stdout)  # alone, for scripts
    assert "of organisation 'acme', for files:read files:write ocr; expires: never" in result.stderr
    assert "It is the first: within 30 s every request" in result.stderr
    assert result.stdout.strip() not in result.stderr
    assert check(result.stdout.strip()) == org_id
    second = recto("keys", "create", "--org", org_id)
    assert "It is the first" not in second.stderr
    assert oct((data / "secret.key").stat().st_mode)[-3:] == "600"
    secret = result.stdout.strip().split("_")[2].encode()
    assert not [path for path in data.rglob("*") if path.is_file() and secret in path.read_bytes()]


def test_files_from_before_there_were_keys_stay_reachable(data: Path) -> None:
    assert check(done("keys", "create", "--org", "local").strip()) == LOCAL_ORG_ID


def test_organisations_are_listed_with_their_limits(data: Path) -> None:
    done("orgs", "create", "acme", "--max-bytes", 1000, "--max-files", 0, "--pages-per-minute", 7)
    done("orgs", "create", "other org", "--max-bytes", "default")
    listing = done("orgs", "list")
    limits = "max_bytes=1000 max_files=none pages_per_minute=7"
    assert row(listing, "acme")[3:] == ["0", "0", limits]
    assert row(listing, "other org")[3:] == ["0", "0", "-"]
    assert row(listing, LOCAL_ORG_ID)[1] == "local"
    done("orgs", "limit", "acme", "--max-bytes", "default", "--requests-per-minute", 5)
    limits = "max_files=none requests_per_minute=5 pages_per_minute=7"
    assert row(done("orgs", "list"), "acme")[5] == limits


def test_an_organisation_has_a_weight(data: Path) -> None:
    done("orgs", "create", "acme", "--weight", 250)
    done("orgs", "create", "other")
    assert row(done("orgs", "list"), "acme")[5] == "weight=250"
    assert row(done("orgs", "list"), "other")[5] == "-"
    done("orgs", "limit", "acme", "--weight", 10_000, "--max-files", 0)
    assert row(done("orgs", "list"), "acme")[5] == "max_files=none weight=10000"
    done("orgs", "limit", "acme", "--weight", "default", "--max-files", "default")
    assert row(done("orgs", "list"), "acme")[5] == "-"


@pytest.mark.parametrize("weight", ["0", "10001", "-1", "1.5", "much", ""])
def test_a_weight_that_cannot_be_is_refused(data: Path, weight: str) -> None:
    for command in (["create", "acme"], ["limit", "local"]):
        result = recto("orgs", *command, f"--weight={weight}")
        assert result.exit_code == 2
        assert "is neither a number from 1 to 10000 nor `default`." in result.stderr
    assert "acme" not in done("orgs", "list")


def test_keys_are_listed_without_their_secrets(data: Path) -> None:
    done("orgs", "create", "acme")
    one = done("keys", "create", "--org", "acme", "--name", "laptop", "--expires", "90d").strip()
    two = done("keys", "create", "--org", "local", "--service", "--scopes", "admin, ocr").strip()
    listing = done("keys", "list")
    first, second = row(listing, one.split("_")[1]), row(listing, two.split("_")[1])
    assert first[1:4] == ["acme", "laptop", "files:read,files:write,ocr"]
    assert second[1:4] == ["local", "-", "admin,ocr (service)"]
    assert (first[6:], second[5:]) == (["-", "active"], ["-", "-", "active"])
    assert one.split("_")[2] not in listing
    check(one)
    assert row(done("keys", "list", "--org", "acme"), "laptop")[6] != "-"
    assert two.split("_")[1] not in done("keys", "list", "--org", "acme")
    assert "service key" in recto("keys", "create", "--org", "acme", "--service").stderr


def test_a_revoked_key_is_over(data: Path) -> None:
    key = done("keys", "create", "--org", "local").strip()
    result = recto("keys", "revoke", key.split("_")[1])
    assert (result.exit_code, result.stdout) == (0, "")
    assert "Running servers refuse it within 10 s." in result.stderr
    with pytest.raises(Unauthorized):
        check(key)
    assert row(done("keys", "list"), key.split("_")[1])[-1] == "revoked"
    assert recto("keys", "revoke", key.split("_")[1]).exit_code == 0  # again


def test_a_whole_key_is_refused_and_not_repeated(data: Path) -> None:
    key = done("keys", "create", "--org", "local").strip()
    result = recto("keys", "revoke", key)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "Give the key's id only" in result.stderr
    assert not [part for part in key.split("_")[1:] if part in result.stderr]
    assert check(key)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("12h", 12 * 3600), ("90d", 90 * 86400), ("1h", 3600)],
)
def test_keys_expire_after_a_time(data: Path, text: str, seconds: int) -> None:
    before = int(time.time())
    done("keys", "create", "--org", "local", "--expires", text)
    with closing(sqlite3.connect(data / "recto.db")) as database:
        ((expires_at,),) = database.execute("SELECT expires_at FROM api_keys").fetchall()
    assert before <= expires_at - seconds <= int(time.time())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("2199-01-31", "2199-01-31 00:00:00Z"),
        ("2199-01-31T12:00", "2199-01-31 12:00:00Z"),
        ("2199-01-31T12:00+02:00", "2199-01-31 10:00:00Z"),
    ],
)
def test_keys_expire_at_a_date(data: Path, text: str, said: str) -> None:
    assert (
        f"expires: {said}." in recto("keys", "create", "--org", "local", "--expires", text).stderr
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("keys", "create", "--org", "nobody"), "There is no organisation 'nobody'"),
        (("keys", "create", "--org", "local", "--scopes", "ocr,root"), "Unknown scopes ('root')"),
        (("keys", "create", "--org", "local", "--scopes", ","), "Unknown scopes (none given)"),
        (("keys", "create", "--org", "local", "--expires", "soon"), "neither like 90d or 12h"),
        (("keys", "create", "--org", "local", "--expires", "0d"), "neither like 90d or 12h"),
        (("keys", "create", "--org", "local", "--expires", "2020-01-01"), "is over already"),
        (("keys", "create", "--org", "local", "--expires", "0001-01-01"), "is over already"),
        (("keys", "create", "--org", "local", "--name", "a\nb"), "at most 200 characters"),
        (("keys", "revoke", "0123456789abcdef"), "no key with this id"),
        (("keys", "revoke", "ocr_x"), "Give the key's id only"),
        (("keys", "list", "--org", "nobody"), "There is no organisation"),
        (("orgs", "create", "local"), "There is an organisation 'local' already."),
        (("orgs", "create", " "), "neither empty nor an id"),
        (("orgs", "create", LOCAL_ORG_ID), "neither empty nor an id"),
        (("orgs", "limit", "nobody", "--max-files", "1"), "There is no organisation"),
        (("orgs", "limit", "local"), "Name at least one limit"),
    ],
)
def test_what_cannot_be_is_one_line(data: Path, arguments: tuple[str, ...], said: str) -> None:
    assert said in problem(*arguments)


@pytest.mark.parametrize("number", ["-1", "1.5", "many", str(2**63), "٣"])
def test_limits_are_whole_numbers(data: Path, number: str) -> None:
    result = recto("orgs", "create", "acme", f"--max-bytes={number}")
    assert (result.exit_code, "neither a whole number nor" in result.stderr) == (2, True)
    assert not data.exists()


def test_wrong_settings_are_said_first(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECTO_MAX_PAGES", "many")
    assert problem("orgs", "list").startswith("RECTO_MAX_PAGES: ")
    monkeypatch.delenv("RECTO_MAX_PAGES")
    monkeypatch.setenv("RECTO_DATABASE_URL", "oracle://host/name")
    assert "oracle is not supported" in problem("orgs", "list")
    monkeypatch.setenv("RECTO_DATABASE_URL", "postgresql://u:hush@127.0.0.1:1/name")
    for words in (("orgs", "list"), ("db", "upgrade"), ("db", "current")):
        said = problem(*words)
        assert said.startswith("RECTO_DATABASE_URL: ")
        assert "hush" not in said
    monkeypatch.delenv("RECTO_DATABASE_URL")
    monkeypatch.setenv("RECTO_DATA_DIR", "/proc/recto")
    assert "/proc" in problem("orgs", "list")
    assert not data.exists()


def test_a_secret_that_is_damaged_makes_no_key(data: Path) -> None:
    data.mkdir()
    (data / "secret.key").write_bytes(b"short")
    assert "does not hold 32 bytes" in problem("keys", "create", "--org", "local")
    assert row(done("orgs", "list"), "local")


def test_the_database_is_brought_up_to_date(data: Path) -> None:
    result = recto("db", "current")
    assert (result.exit_code, result.stdout, data.exists()) == (0, "none\n", False)
    assert "recto db upgrade" in result.stderr
    for _ in range(2):
        assert done("db", "upgrade") == f"{migrations.head()}\n"
    result = recto("db", "current")
    assert (result.stdout, result.stderr) == (f"{migrations.head()}\n", "")
    with closing(sqlite3.connect(data / "recto.db")) as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
        database.commit()
    for words in (("db", "upgrade"), ("orgs", "list")):
        assert "newer Recto (revision 9999" in problem(*words)
    assert done("db", "current") == "9999\n"


def test_postgresql_is_upgraded_when_that_is_asked_for(
    data: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECTO_DATABASE_URL", postgres_url)
    assert "recto db upgrade" in problem("orgs", "create", "acme")
    assert done("db", "current") == "none\n"
    (refusal,) = checks.connection_problems(Settings())
    assert "empty" in refusal
    assert "recto db upgrade" in refusal
    assert NO_KEYS in checks.keys_problems(Settings(), "::")[0]
    assert done("db", "upgrade") == f"{migrations.head()}\n"
    assert not data.exists()
    done("orgs", "create", "acme")
    assert NO_KEYS in checks.keys_problems(Settings(), "::")[0]
    result = recto("keys", "create", "--org", "acme")
    assert f"only servers with {data / 'secret.key'} take this key" in result.stderr
    assert checks.keys_problems(Settings(), "::") == []
    assert check(result.stdout.strip())


def test_serve_stays_on_loopback_until_there_is_a_key(data: Path) -> None:
    for host in ("0.0.0.0", "::", "example.com"):
        said = problem("serve", "--host", host)
        assert said.startswith(f"Refusing to listen on {host}: {NO_KEYS}")
        assert "recto orgs create NAME, then recto keys create --org NAME" in said
    assert not data.exists()  # it looked, and made nothing
    done("orgs", "create", "acme")
    assert NO_KEYS in problem("serve", "--host", "0.0.0.0")
    key = done("keys", "create", "--org", "acme").strip()
    assert checks.keys_problems(Settings(), "0.0.0.0") == []
    done("keys", "revoke", key.split("_")[1])
    assert checks.keys_problems(Settings(), "0.0.0.0") == []  # closed to everybody is not open


def test_a_database_of_an_earlier_revision_has_no_keys(data: Path) -> None:
    data.mkdir()
    with closing(sqlite3.connect(data / "recto.db")) as database:
        database.execute("CREATE TABLE alembic_version (version_num TEXT)")
        database.execute("INSERT INTO alembic_version VALUES ('0001')")
        database.commit()
    assert NO_KEYS in problem("serve", "--host", "0.0.0.0")


def test_serve_listens_nowhere_else_when_the_database_does_not_answer(data: Path) -> None:
    data.mkdir()
    (data / "recto.db").write_bytes(b"This is no database." * 100)
    assert "cannot be used" in problem("serve", "--host", "0.0.0.0")
    (said,) = checks.keys_problems(Settings(), "0.0.0.0")
    assert said.startswith("Refusing to listen on 0.0.0.0: ")


@contextmanager
def serving(data: Path, *options: str) -> Iterator[str]:
    """Run a server with the fake engine alone; give its address."""
    models = data.parent / "models"
    models.mkdir(exist_ok=True)
    shutil.copy(ROOT / "configs" / "models" / "echo.yaml", models)
    (data.parent / "routes.yaml").write_text("default: echo\n")
    own = {"MODELS_DIR": models, "ROUTES": data.parent / "routes.yaml", "DATA_DIR": data}
    env = {**os.environ, "RECTO_SHOW_HIDDEN_MODELS": "true", "RECTO_LOG_LEVEL": "ERROR"}
    env |= {f"RECTO_{name}": str(value) for name, value in own.items()}
    command = [sys.executable, "-m", "ocr_api.cli", "serve", "--port", "0", *options]
    process = subprocess.Popen(command, cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE)
    with process:
        assert process.stdout
        first = process.stdout.readline()
        try:
            assert first.startswith("Recto listens on http://")
            yield f"http://127.0.0.1:{first.split()[3].rpartition(':')[2]}"
        finally:
            process.terminate()
            process.stdout.read()
            process.wait(60)


def seconds_until(told: Callable[[], bool], most: float = 30.0) -> float:
    """Return how long it took; fail when it took longer than was promised."""
    begun = time.monotonic()
    while not told():
        assert time.monotonic() - begun < most
        time.sleep(0.2)
    return time.monotonic() - begun


def test_a_running_server_feels_the_first_key_and_its_end(data: Path) -> None:
    """The whole way: an open server, a key, a closed one, the key is revoked. 20 s, all waiting."""
    with serving(data) as base:

        def status(headers: dict[str, str] | None = None) -> int:
            return httpx.get(f"{base}/v1/models", headers=headers).status_code

        assert status() == 200
        done("orgs", "create", "acme")
        key = done("keys", "create", "--org", "acme").strip()
        seconds_until(lambda: status() == 401)
        headers = {"Authorization": f"Bearer {key}"}
        assert status(headers) == 200
        done("keys", "revoke", key.split("_")[1])
        seconds_until(lambda: status(headers) == 401)
        assert status() == 401
    with serving(data, "--host", "0.0.0.0") as base:  # allowed now
        assert httpx.get(f"{base}/livez").status_code == 200
        assert httpx.get(f"{base}/v1/models").status_code == 401


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("postgresql://recto:secret-word@127.0.0.1:1/x", "nothing listens there"),
        ("postgresql://recto:secret-word@nowhere.invalid/x", "its host is not known"),
    ],
)
def test_a_database_that_is_away_is_named_without_its_password(
    data: Path, monkeypatch: pytest.MonkeyPatch, url: str, reason: str
) -> None:
    monkeypatch.setenv("RECTO_DATABASE_URL", url)
    said = problem("db", "upgrade")
    assert reason in said
    assert "secret-word" not in said


def test_a_wrong_password_is_called_so(
    data: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = make_url(postgres_url).set(password="wrong-word")
    monkeypatch.setenv("RECTO_DATABASE_URL", wrong.render_as_string(hide_password=False))
    said = problem("db", "upgrade")
    assert "it refuses the user or the password" in said
    assert "wrong-word" not in said
