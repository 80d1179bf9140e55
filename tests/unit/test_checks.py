"""What is said of settings that cannot be used: one sentence each, and none of their values."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ocr_api import checks
from ocr_api.app import load_registry
from ocr_api.cli import main
from ocr_api.settings import Settings

GLM = "zai-org/GLM-OCR"
SHAPE = 'must be a JSON object such as {"zai-org/GLM-OCR": "http://host:8000/v1"}'
ADDRESS = "an address must be such as http://host:8000/v1"
BARE = "an address holds no blank, no query (?) and no fragment (#)"
NO_USER = "an address holds no user or password; a key is RECTO_ENGINE_API_KEY"
LIST = "needs an address, or a list of them"


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECTO_DATA_DIR", str(tmp_path / "data"))


def recto(*words: str) -> Result:
    return CliRunner().invoke(main, words)


def of_glm(urls: object) -> str:
    return json.dumps({GLM: urls})


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("http://hush", SHAPE),
        ('["http://hush"]', SHAPE),
        ("[" * 5000, SHAPE),
        ('{"http://me:hush@gpu/v1": "glm-ocr"}', SHAPE),
        (of_glm(5), f"{GLM} {LIST}"),
        (of_glm({"url": "http://hush/v1"}), f"{GLM} {LIST}"),
        (of_glm([None]), f"{GLM} {LIST}"),
        (of_glm([]), f"{GLM} has an empty list; give it an address, or leave it out"),
        (of_glm("http://["), f"{GLM}: {ADDRESS}"),
        (of_glm("ftp://hush/v1"), f"{GLM}: {ADDRESS}"),
        (of_glm("http://hush/v1 "), f"{GLM}: {BARE}"),
        (of_glm("http://gpu/v1?token=hush"), f"{GLM}: {BARE}"),
        (of_glm("http://me:hush@gpu:8000/v1"), f"{GLM}: {NO_USER}"),
        (of_glm(["http://gpu/v1", "http://gpu:70000/hush"]), f"{GLM}: {ADDRESS}"),
        ('{"hidden": "http://hush/v1"}', "there is no model or route 'hidden'"),
        ('{"rapidocr": "http://hush/v1"}', "rapidocr runs inside Recto and takes no address"),
        (
            json.dumps({"glm-ocr": "http://hush/v1", GLM: "http://hush/v1"}),
            f"glm-ocr and {GLM} are the same card; remove one",
        ),
    ],
)
def test_wrong_addresses_are_one_sentence_without_them(
    value: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECTO_ENGINE_URLS", value)
    said = f"recto: RECTO_ENGINE_URLS: {problem}\n"
    for words in (("check",), ("read", "x.pdf"), ("serve", "--port", "0")):
        done = recto(*words)
        assert (done.exit_code, done.stdout, done.stderr) == (1, "", said)


def test_a_wrong_address_hides_no_other_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECTO_ENGINE_URLS", of_glm(5))
    monkeypatch.setenv("RECTO_MAX_PAGES", "many")
    monkeypatch.setenv("RECTO_DOORS", "telex")
    variables = [line.split(":")[1].strip() for line in recto("check").stderr.splitlines()]
    assert sorted(variables) == ["RECTO_DOORS", "RECTO_ENGINE_URLS", "RECTO_MAX_PAGES"]


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_no_setting_can_be_so_wrong_that_reading_fails(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for value in ("{", "[1]", '{"a": 1}', "\N{SNOWMAN} \x01"):
        monkeypatch.setenv(f"RECTO_{name.upper()}", value)
        _, problems = checks.read_settings()
        assert all(problem.startswith(f"RECTO_{name.upper()}: ") for problem in problems)
        assert not [problem for problem in problems if value in problem.replace(SHAPE, "")]


@pytest.mark.parametrize("name", [GLM, "glm-ocr"])
def test_an_address_is_given_to_a_card_or_its_alias(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECTO_ENGINE_URLS", json.dumps({name: "http://[::1]:8000/v1/"}))
    settings, registry = checks.configuration()
    assert settings.engine_urls == {name: ("http://[::1]:8000/v1",)}
    for asked in (GLM, "glm-ocr"):
        assert registry.choose(asked, "org").urls == ("http://[::1]:8000/v1",)
    assert registry.servers()[GLM] == ("http://[::1]:8000/v1",)


def test_a_route_named_like_a_card_with_an_address_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = f"{{card: {GLM}, urls: ['http://elsewhere:9/v1']}}"
    routes = tmp_path / "routes.yaml"
    routes.write_text(f"default: rapidocr\nroutes: {{{GLM}: {{targets: [{target}]}}}}\n")
    monkeypatch.setenv("RECTO_ROUTES", str(routes))
    assert recto("check").exit_code == 0
    said = (
        f"recto: RECTO_ENGINE_URLS: {GLM} has an address here, or by --with-vllm, and a route of "
        "this name in the routes file; remove one\n"
    )
    program = tmp_path / "vllm"
    program.write_text("#!/bin/sh\nexit 9\n")
    program.chmod(0o755)
    monkeypatch.setenv("RECTO_VLLM_BIN", str(program))
    done = recto("serve", "--port", "0", "--with-vllm", "glm-ocr")
    assert (done.exit_code, done.stderr) == (1, said)
    assert not (tmp_path / "data").exists()  # nothing was started
    for name in (GLM, "glm-ocr"):
        monkeypatch.setenv("RECTO_ENGINE_URLS", json.dumps({name: "http://gpu/v1"}))
        done = recto("check")
        assert (done.exit_code, done.stderr) == (1, said)


def test_a_password_in_the_routes_is_refused_and_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = f"{{card: {GLM}, urls: ['http://me:hush@gpu/v1']}}"
    (tmp_path / "routes.yaml").write_text(
        f"default: rapidocr\nroutes: {{best: {{targets: [{target}]}}}}\n"
    )
    monkeypatch.setenv("RECTO_ROUTES", str(tmp_path / "routes.yaml"))
    done = recto("check")
    assert done.exit_code == 1
    assert "routes.best.targets.0.urls.0: " in done.stderr
    assert f"{NO_USER}\n" in done.stderr
    assert "hush" not in done.output


def test_addresses_stand_in_for_those_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECTO_ENGINE_URLS", of_glm("http://before/v1"))
    settings, registry = checks.configuration(engine_urls={GLM: ("http://after/v1",)})
    assert registry.choose(GLM, "org").urls == ("http://after/v1",)
    assert load_registry(settings).choose(GLM, "org").urls == ("http://after/v1",)
