"""The command line: what it prints, where it writes, what it refuses."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner, Result

from files_api.kit import named
from files_api.kit.db import Database
from ocr_api import app, checks, migrations
from ocr_api.cli import main, serving
from ocr_api.cli.serving import example_line
from ocr_api.settings import Role, Settings
from tests import helpers
from tests.conftest import ROOT


@pytest.fixture
def document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RECTO_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("RECTO_SHOW_HIDDEN_MODELS", "true")
    path = tmp_path / "three.pdf"
    path.write_bytes(helpers.pages_pdf(3))
    return path


def recto(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_read_prints_markdown(document: Path) -> None:
    done = recto("read", document, "--model", "echo", "--pages", "0,2")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("# Page 0\n")
    assert "# Page 2\n" in done.stdout
    assert "# Page 1" not in done.stdout
    assert done.stderr == ""


def test_several_results_on_standard_output_say_whose_they_are(document: Path) -> None:
    done = recto("read", document, document, "--model", "echo", "--pages", "0")
    assert done.stdout.count(f"<!-- {document} -->\n\n# Page 0") == 2
    done = recto("read", document, document, "--model", "echo", "--pages", "0", "--json")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["file"] for line in lines] == [str(document)] * 2


def test_odd_names_and_devices(document: Path, tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"a--\xff.pdf")
    odd.write_bytes(document.read_bytes())
    done = recto("read", odd, document, "--model", "echo", "--pages", "0")
    assert done.exit_code == 0, done.output
    assert "a- -\ufffd.pdf -->" in done.stdout
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    done = recto("read", fifo, "/dev/zero", document, "--model", "echo")
    assert (done.exit_code, "# Page 2" in done.stdout) == (1, True)
    assert done.stderr.count("only files are read") == 2


def test_a_result_does_not_overwrite_what_is_read(document: Path) -> None:
    before = document.read_bytes()
    other = document.with_suffix(".md")
    document.rename(other)
    done = recto("read", other, "--model", "echo", "-o", other)
    assert (done.exit_code, "is the file to be read" in done.stderr) == (1, True)
    assert other.read_bytes() == before


def test_read_needs_no_data_folder(document: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECTO_DATA_DIR", "/proc/recto")
    assert recto("read", document, "--model", "echo").exit_code == 0
    assert "RECTO_DATA_DIR: /proc" in recto("check").stderr or os.geteuid() == 0


def test_check_finds_stores_that_cannot_be_folders(
    document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "scratch").write_text("a file")
    monkeypatch.setenv("RECTO_BLOB_URL", document.as_uri())
    done = recto("check")
    assert done.exit_code == 1
    assert f"RECTO_BLOB_URL: {document} is not a folder" in done.stderr
    assert f"RECTO_DATA_DIR: {data / 'scratch'} is not a folder" in done.stderr


def test_several_results_need_a_folder(document: Path, tmp_path: Path) -> None:
    done = recto("read", document, document, "--model", "echo", "-o", tmp_path / "both.md")
    assert (done.exit_code, "need a folder" in done.stderr) == (1, True)
    assert not (tmp_path / "both.md").exists()


def test_read_prints_json(document: Path) -> None:
    facts = json.loads(recto("read", document, "--model", "echo", "--json").stdout)
    assert facts["model"] == "echo"
    assert [page["index"] for page in facts["pages"]] == [0, 1, 2]


def test_read_writes_files(document: Path, tmp_path: Path) -> None:
    assert recto("read", document, "--model", "echo", "-o", tmp_path / "a.json").exit_code == 0
    assert json.loads((tmp_path / "a.json").read_text())["card"] == "echo"
    out = tmp_path / "out"
    assert recto("read", document, document, "--model", "echo", "-o", out).exit_code == 0
    assert (out / "three.pdf.md").read_text().startswith("# Page 0")
    refused = recto("read", document, "-o", tmp_path / "a.docx")
    assert (refused.exit_code, "known: json, md, txt" in refused.stderr) == (1, True)


def test_results_of_one_name_do_not_overwrite_each_other(document: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "three.pdf").write_bytes(helpers.pages_pdf(1))
    (other / "three.pdf.2").write_bytes(helpers.pages_pdf(2))
    files = (document, other / "three.pdf", other / "three.pdf.2")
    done = recto("read", *files, "--model", "echo", "-o", tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    pages = {path.name: path.read_text().count("# Page") for path in (tmp_path / "out").iterdir()}
    assert pages == {"three.pdf.md": 3, "three.pdf.2.md": 1, "three.pdf.2.2.md": 2}


def test_one_result_in_a_folder_that_is_asked_for(document: Path, tmp_path: Path) -> None:
    done = recto("read", document, "--model", "echo", "-o", f"{tmp_path / 'new'}{os.sep}")
    assert done.exit_code == 0, done.stderr
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["three.pdf.md"]


@pytest.mark.parametrize(
    ("count", "output", "message"),
    [
        (1, "none/a.md", "The folder {0}/none of the output does not exist."),
        (2, "three.pdf", "{0}/three.pdf is a file; 2 results need a folder."),
        (2, "three.pdf/out", "The folder {0}/three.pdf/out cannot be made: Not a directory."),
    ],
)
def test_read_refuses_an_output_before_it_reads(
    document: Path, tmp_path: Path, count: int, output: str, message: str
) -> None:
    files = [tmp_path / "missing.pdf"] * count
    done = recto("read", *files, "--model", "echo", "-o", tmp_path / output)
    assert (done.exit_code, done.stderr) == (1, f"recto: {message.format(tmp_path)}\n")
    assert document.read_bytes() == helpers.pages_pdf(3)


def test_a_folder_as_file_is_refused_in_words(document: Path, tmp_path: Path) -> None:
    done = recto("read", tmp_path, document, "--model", "echo")
    assert (done.exit_code, "# Page 2" in done.stdout) == (1, True)
    assert done.stderr == f"{tmp_path}: is a folder; name the files in it.\n"


def test_one_bad_file_does_not_stop_the_others(document: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.pdf"
    bad.write_bytes(b"<html>")
    done = recto("read", bad, tmp_path / "missing.pdf", document, "--model", "echo")
    assert done.exit_code == 1
    assert "# Page 2" in done.stdout
    assert "bad.pdf: " in done.stderr
    assert "missing.pdf: " in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [(("--pages", "2-1"), "backwards"), (("--model", "gpt"), "There is no model 'gpt'")],
)
def test_read_refuses(document: Path, options: tuple[str, ...], message: str) -> None:
    done = recto("read", document, *options)
    assert (done.exit_code, message in done.stderr) == (1, True)


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that something listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_serve_says_that_its_port_is_in_use(document: Path, taken: int) -> None:
    done = recto("serve", "--port", taken)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith(f"recto: Port {taken} on 127.0.0.1 is in use")
    assert "--port (PORT=..." in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (document.parent / "data").exists()


def test_serve_takes_sensible_numbers_only() -> None:
    for option, number in (("--workers", "0"), ("--workers", "-3"), ("--port", "70000")):
        assert recto("serve", option, number).exit_code == 2


def test_more_workers_need_postgresql(document: Path) -> None:
    done = recto("serve", "--workers", "2", "--port", "0")
    assert (done.exit_code, "PostgreSQL" in done.stderr) == (1, True)
    assert not (document.parent / "data").exists()


def test_workers_are_processes_that_announce_themselves_once(
    tmp_path: Path, postgres_url: str
) -> None:
    env = {**os.environ, "RECTO_DATA_DIR": str(tmp_path), "RECTO_LOG_LEVEL": "ERROR"}
    env["RECTO_DATABASE_URL"] = postgres_url
    command = [sys.executable, "-m", "ocr_api.cli"]
    subprocess.run([*command, "db", "upgrade"], cwd=ROOT, env=env, check=True)
    process = subprocess.Popen(
        [*command, "serve", "--workers", "2", "--port", "0"],
        cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE,
    )  # fmt: skip
    with process:
        assert process.stdout
        first = process.stdout.readline()
        assert first.startswith("Recto listens on http://127.0.0.1:")
        base = first.split()[3]
        assert httpx.get(f"{base}/readyz", timeout=60).json()["checks"]["database"] == "ok"
        names = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        lines = [Path(f"/proc/{name}/cmdline").read_text() for name in names]
        assert sum("spawn_main" in line for line in lines) == 2
        process.send_signal(signal.SIGTERM)
        rest = process.stdout.read()
        assert process.wait(60) == 0
    assert "listens" not in rest


def test_check_says_what_is_served(document: Path) -> None:
    done = recto("check")
    assert done.exit_code == 0
    assert "ok: rapidocr" in done.stdout
    assert not (document.parent / "data").exists()


def test_check_lists_all_problems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.yaml").write_text("id: a\nengin: x\n")
    monkeypatch.setenv("RECTO_MODELS_DIR", str(tmp_path))
    monkeypatch.setenv("RECTO_DOORS", "mistral,telex")
    done = recto("check")
    assert done.exit_code == 1
    for part in ("a.yaml: engin:", "a.yaml: engine: Field required", "telex"):
        assert part in done.stderr, part
    monkeypatch.setenv("RECTO_MAX_PAGES", "many")
    monkeypatch.setenv("RECTO_SECRET_KEY", "short")
    done = recto("check")
    assert done.exit_code == 1
    assert "RECTO_MAX_PAGES: " in done.stderr
    assert "RECTO_SECRET_KEY: " in done.stderr
    assert "short" not in done.stderr


def test_check_lists_everything_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.yaml").write_text("id: a\nengin: x\n")
    wrong = {
        "MODELS_DIR": str(tmp_path),
        "ROUTES": str(tmp_path / "none"),
        "DOORS": "telex",
        "MAX_PAGE": "3",
        "MAX_PAGES": "many",
        "LOG_LEVEL": "LOUD",
        "BLOB_URL": "tape:///x",
        "DATABASE_URL": "oracle://host/name",
        "DATA_DIR": str(tmp_path / "a.yaml" / "data"),
    }
    for name, value in wrong.items():
        monkeypatch.setenv(f"RECTO_{name}", value)
    stores = ", ".join(named.names("files_api.blobs"))
    doors = ", ".join(named.names(app.DOORS))
    no_number = "Input should be a valid integer, unable to parse string as an integer"
    for command in (("check",), ("serve", "--port", "0"), ("read", "x.pdf")):
        done = recto(*command)
        assert (done.exit_code, done.stdout) == (1, "")
        lines = done.stderr.splitlines()
        stored = (
            f"recto: RECTO_BLOB_URL: there is no store 'tape'; known: {stores}",
            f"recto: RECTO_DATA_DIR: {tmp_path / 'a.yaml'} is not a folder",
        )
        assert all((part in lines) == (command[0] != "read") for part in stored)
        for part in (
            "recto: RECTO_MAX_PAGE: unknown; did you mean RECTO_MAX_PAGES?",
            f"recto: RECTO_MAX_PAGES: {no_number}",
            "recto: RECTO_LOG_LEVEL: Input should be 'DEBUG', 'INFO', 'WARNING' or 'ERROR'",
            f"recto: RECTO_DOORS: there is no door 'telex'; known: {doors}",
            "recto: a.yaml: engin: Extra inputs are not permitted",
            "recto: none: not readable: No such file or directory",
        ):
            assert part in lines, part
        assert "recto: RECTO_DATABASE_URL: oracle is not supported" in done.stderr


def test_a_wrong_setting_does_not_hide_problems_of_the_cards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECTO_MAX_PAGES", "many")
    assert recto("check").stderr.count("\n") == 1
    (tmp_path / "a.yaml").write_text("id: a\nengin: x\n")
    monkeypatch.setenv("RECTO_MODELS_DIR", str(tmp_path))
    assert "a.yaml: engin: Extra inputs" in recto("check").stderr


def test_variables_that_kubernetes_sets_are_not_settings() -> None:
    service = {
        "RECTO_SERVICE_HOST": "10.0.0.1",
        "RECTO_SERVICE_PORT_HTTP": "80",
        "RECTO_FILES_PORT": "tcp://10.0.0.1:80",
        "RECTO_PORT_80_TCP_ADDR": "10.0.0.1",
        "recto_max_pages": "3",
        "PATH": "/bin",
    }
    assert checks.unknown_variables(service) == []
    assert checks.unknown_variables({"RECTO_PORT": "80", "RECTO_SECRETKEY": ""}) == [
        "RECTO_PORT: unknown",
        "RECTO_SECRETKEY: unknown; did you mean RECTO_SECRET_KEY?",
    ]


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("nonsense", "SQLAlchemy cannot use this URL"),
        ("postgresql://user:hush@host:port/name", "SQLAlchemy cannot use this URL"),
        ("postgresql+nothing://user:hush@host/name", "SQLAlchemy cannot use this URL"),
        ("sqlite+pysqlite:///x.db", "SQLAlchemy cannot use this URL"),
        ("mysql://user:hush@host/name", "mysql is not supported"),
        ("sqlite:////no/such/folder/recto.db", "the folder /no/such/folder does not exist"),
        ("sqlite:////", "/ cannot be written"),
    ],
)
def test_database_urls_that_cannot_work(url: str, problem: str) -> None:
    (found,) = checks.database_problems(Settings(database_url=url))
    assert found.startswith("RECTO_DATABASE_URL: ")
    assert problem in found
    assert "hush" not in found


def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "asyncpg", None)  # what an absent package does to an import
    (found,) = checks.database_problems(Settings(database_url="postgresql://host/name"))
    how = "make server-drivers, or pip install 'recto[postgres]'"
    assert found.endswith(f"its driver asyncpg is not installed: {how}")


def test_a_database_that_cannot_be_opened(document: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = document.parent / "own.db"
    monkeypatch.setenv("RECTO_DATABASE_URL", f"sqlite:///{path}")
    assert recto("check").exit_code == 0
    assert not path.exists()
    path.write_bytes(b"This is no database." * 100)
    done = recto("check")
    assert done.stderr == f"recto: the database {path} cannot be used: DatabaseError\n"
    path.unlink()
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE alembic_version (version_num TEXT)")
        database.execute("INSERT INTO alembic_version VALUES ('9999')")
        database.commit()
    done = recto("serve", "--port", "0")
    assert (done.exit_code, "newer Recto (revision 9999," in done.stderr) == (1, True)
    assert not (document.parent / "data").exists()


def test_a_data_folder_that_cannot_be_used(document: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = document.parent / "data"
    data.mkdir()
    (data / "secret.key").write_bytes(b"short")
    done = recto("check")
    assert done.stderr.startswith(f"recto: {data / 'secret.key'} does not hold 32 bytes; ")
    (data / "secret.key").write_bytes(os.urandom(32))
    assert recto("check").exit_code == 0
    asked = []

    def refuse(path: Path, mode: int) -> bool:
        asked.append((path, mode))
        return False

    monkeypatch.setattr(os, "access", refuse)  # root may write anywhere
    monkeypatch.setenv("RECTO_DATA_DIR", str(data / "deep" / "er"))
    assert recto("check").stderr == f"recto: RECTO_DATA_DIR: {data} cannot be written\n"
    assert (data, os.W_OK | os.X_OK) in asked
    assert not (data / "deep").exists()


def test_a_service_that_cannot_start_says_so(
    document: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(database: Database) -> None:
        raise RuntimeError("no room")

    monkeypatch.setattr(migrations, "upgrade", fail)
    monkeypatch.setattr(serving, "set_up_logs", lambda _: None)
    done = recto("serve", "--port", "0")
    assert done.exit_code == 1
    assert done.stderr.endswith(
        "recto: The service could not start; the log lines above say why.\n"
    )


def test_the_line_to_paste_names_a_file_that_exists() -> None:
    line = example_line("http://127.0.0.1:8000")
    assert str(ROOT / "docs" / "demo" / "scan.pdf") in line


@pytest.mark.parametrize(("role", "path"), [("files", "/v1/files"), ("ocr", "/v1/ocr")])
def test_the_line_to_paste_is_one_that_the_role_answers(role: Role, path: str) -> None:
    line = example_line("http://127.0.0.1:8000", role=role)
    assert re.findall(r"http://127\.0\.0\.1:8000([^ )]*)", line) == [path]


def test_the_line_to_paste_has_a_key_where_one_is_needed() -> None:
    line = example_line("http://0.0.0.0:8000", with_key=True)
    assert line.count('-H "Authorization: Bearer $RECTO_KEY" http://127.0.0.1:8000/v1/files') == 2
