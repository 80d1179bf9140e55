"""The command line: what it prints, where it writes, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ocr_api.cli import example_line, main
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


def test_serve_stays_on_loopback_without_keys() -> None:
    for host in ("0.0.0.0", "::", "example.com"):
        done = recto("serve", "--host", host)
        assert done.exit_code == 1
        assert "no API keys are configured" in done.stderr


def test_more_workers_need_postgresql() -> None:
    done = recto("serve", "--workers", "2")
    assert (done.exit_code, "PostgreSQL" in done.stderr) == (1, True)


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


def test_the_line_to_paste_names_a_file_that_exists() -> None:
    line = example_line("http://127.0.0.1:8000")
    assert str(ROOT / "docs" / "demo" / "scan.pdf") in line
