"""What the documents say is what the code does: settings, errors, routes, models, leaves."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner
from fastapi import FastAPI

from files_api.kit import named
from files_api.kit.errors import AppError, InternalError, every_error
from model_registry import audit
from model_registry.card import read_cards
from model_registry.routing import Routes
from ocr_api import app, cli, exports
from ocr_api.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text("utf-8")
CONTEXT = click.Context(cli.main)


def errors_table() -> str:
    """Return the README's error table, made from the classes."""
    rows = sorted({(cls.status, cls.code, cls.default_message()) for cls in _public_errors()})
    return "\n".join(f"| {status} | `{code}` | {message} |" for status, code, message in rows)


def _public_errors() -> list[type[AppError]]:
    # A subclass elsewhere is for the code beside it; a client reads the class that it inherits.
    package = AppError.__module__.rpartition(".")[0]
    known = [cls for cls in every_error() if cls.__module__.startswith(package)]
    return [cls for cls in known if cls is not AppError]


def _service(settings: Settings) -> FastAPI:
    front = app.create(settings)
    inner = front.app  # type: ignore[attr-defined]
    assert isinstance(inner, FastAPI)
    return inner


def test_readme_lists_every_error() -> None:
    assert errors_table() in README


def test_readme_lists_every_warning() -> None:
    made = {
        code
        for path in (ROOT / "ocr_api").rglob("*.py")
        for code in re.findall(r"\bWarn\(\s*\"([a-z_]+)\"", path.read_text("utf-8"))
    }
    section = README.split("### Warnings")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| `([a-z_]+)` \|", section, re.MULTILINE)) == made


def test_error_codes_are_one_per_meaning() -> None:
    seen: dict[tuple[int, str], str] = {}
    for cls in _public_errors():
        assert seen.setdefault((cls.status, cls.code), cls.__name__) == cls.__name__
        assert cls.retry_after is None or cls.retry_after <= 120
    assert InternalError.status == 500


def test_readme_lists_every_route(settings: Settings) -> None:
    paths = _service(settings).openapi()["paths"]
    routes = {f"{verb.upper()} {path}" for path, verbs in paths.items() for verb in verbs}
    listed = set(re.findall(r"^\| `((?:GET|POST|DELETE) [^`]+)`", README, re.MULTILINE))
    assert {route.replace(":path", "") for route in routes} == listed


def test_every_documented_error_names_its_codes(settings: Settings) -> None:
    document = _service(settings).openapi()
    codes = document["paths"]["/v1/ocr"]["post"]["responses"]
    assert "`document_encrypted`" in codes["400"]["description"]
    assert "`ocr_failed`" in codes["500"]["description"]
    assert codes["422"]["content"]["application/json"]["schema"]["$ref"].endswith("/ErrorBody")
    assert document["components"]["schemas"]["ErrorBody"]["required"]


def test_example_env_holds_every_setting_with_its_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines = (ROOT / "configs" / "example.env").read_text("utf-8").splitlines()
    listed = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert list(listed) == [f"RECTO_{name.upper()}" for name in Settings.model_fields]
    for name in listed:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(ROOT)
    defaults = Settings()
    for name, value in listed.items():
        monkeypatch.setenv(name, value)
    example = Settings()
    for name in Settings.model_fields:
        one, other = getattr(example, name), getattr(defaults, name)
        if isinstance(one, Path):
            one, other = one.absolute(), other.absolute()
        assert one == other, name


def test_example_env_says_what_each_setting_means() -> None:
    text = (ROOT / "configs" / "example.env").read_text("utf-8")
    for name, field in Settings.model_fields.items():
        assert field.description, name
        sentence = " ".join(field.description.split())
        comment = text.split(f"RECTO_{name.upper()}=")[0].rsplit("\n\n", 1)[-1]
        assert sentence in " ".join(comment.replace("#", " ").split()), name


def test_readme_lists_every_card_and_leaf(settings: Settings) -> None:
    registry = app.load_registry(settings)
    for card in registry.cards():
        assert f"| `{card.id}` | `{card.engine}` | `{card.parser}` |" in README


def test_every_leaf_is_used_or_listed() -> None:
    """An engine or parser is named by a card and in the README's table; the rest in its lists."""
    cards = read_cards(ROOT / "configs" / "models")
    for card in cards:
        assert f"| `{card.id}` | `{card.engine}` | `{card.parser}` |" in README, card.id
    assert named.names(app.ENGINES) == sorted({card.engine for card in cards})
    assert named.names(app.PARSERS) == sorted({card.parser for card in cards})
    for title, street in (
        ("Stores", "files_api.blobs"),
        ("Export formats", exports.STREET),
        ("APIs", app.DOORS),
    ):
        assert set(named.names(street)) <= _listed(title), title


def _listed(title: str) -> set[str]:
    """Return the code words of the README's paragraph that begins with a bold title."""
    found = re.search(rf"^\*\*{title}\*\*(.*?)(?:\n\n|\Z)", README, re.MULTILINE | re.DOTALL)
    return set(re.findall(r"`([^`]+)`", found[1])) if found else set()


def test_the_routes_that_the_readme_shows_are_right() -> None:
    [shown] = re.findall(r"^```yaml\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    table = Routes.model_validate({"default": "our-ocr", **yaml.safe_load(shown)})
    cards = {card.id for card in read_cards(ROOT / "configs" / "models")}
    route = table.routes["our-ocr"]
    assert {one.card for one in (*route.targets, *route.shadow)} <= cards
    assert audit.check_routes(table) == []


@pytest.mark.parametrize("command", cli.main.list_commands(CONTEXT))
def test_command_explains_itself(command: str) -> None:
    answer = CliRunner().invoke(cli.main, [command, "--help"])
    assert answer.exit_code == 0
    found = cli.main.get_command(CONTEXT, command)
    assert found is not None
    for option in found.params:
        if isinstance(option, click.Option):
            assert option.help, option.name
    assert f"recto {command}" in README


def test_make_help_lists_every_task() -> None:
    text = (ROOT / "Makefile").read_text("utf-8")
    tasks = text.split(".PHONY:")[1].split("\n")[0].split()
    assert sorted(re.findall(r"^([a-z0-9-]+):.*## ", text, re.MULTILINE)) == sorted(tasks)
