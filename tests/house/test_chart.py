"""The chart against the code: its tables of values, and the settings that it takes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from ocr_api.settings import Settings
from tests.conftest import ROOT

CHART = ROOT / "helm"
README = (CHART / "README.md").read_text("utf-8")
VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text("utf-8"))
ROW = re.compile(r"^\| `([^`]+)` \| `(.+?)` \| (.+) \|$", re.MULTILINE)
BY_THE_CHART = {
    *("data_dir", "database_url", "blob_url", "models_dir", "routes", "engine_urls", "role"),
    *("secret_key", "previous_secret_key", "engine_api_key", "require_keys", "vllm_bin"),
    "show_hidden_models",
}
"""Settings that the chart makes of other values, that are secrets, or that no pod needs; hidden
cards are for tests, and the chart has none."""


def test_the_readme_lists_every_value_with_its_default() -> None:
    text = README[README.index("<!-- values -->") :]
    rows = {key: json.loads(value.replace("\\|", "|")) for key, value, _ in ROW.findall(text)}
    left = set(rows)

    def walk(path: str, value: object) -> None:
        if path in rows:
            assert rows[path] == value, path
            left.discard(path)
            return
        assert isinstance(value, dict), f"{path} is not in helm/README.md"
        for key, inner in value.items():
            walk(f"{path}.{key}" if path else key, inner)

    walk("", VALUES)
    assert not left, "no such value"


def test_the_chart_takes_every_setting_and_no_other() -> None:
    taken = SCHEMA["properties"]["settings"]["properties"]
    assert set(taken) == set(Settings.model_fields) - BY_THE_CHART
    sentences = Settings.model_json_schema()["properties"]
    for name, known in taken.items():
        assert known["description"], name
        for bound in ("minimum", "maximum", "exclusiveMinimum", "enum"):
            if name not in ("render_processes", "engine_processes"):  # 0 is a whole node's cores
                assert known.get(bound) == sentences[name].get(bound), (name, bound)


def test_the_readme_lists_every_further_setting() -> None:
    [line] = re.findall(r"^Further settings.*$", README, re.MULTILINE)
    told = set(re.findall(r"`(\w+)`", line))
    assert told | set(VALUES["settings"]) == set(SCHEMA["properties"]["settings"]["properties"])
    assert told.isdisjoint(VALUES["settings"])


@pytest.mark.parametrize("path", [CHART / "README.md", CHART / "templates/NOTES.txt"])
def test_commands_show_what_went_wrong_and_can_be_repeated(path: Path) -> None:
    text = path.read_text("utf-8")
    asked = re.findall(r"\bcurl .*", text)
    assert all(one.startswith("curl -sS --fail-with-body ") for one in asked), path
    assert asked
    # `helm install` refuses the name of an install that failed.
    assert not re.search(r"^ +helm install", text, re.MULTILINE)
    upgrades = re.findall(r"^ +helm upgrade .*$", text, re.MULTILINE)
    assert all(one.strip().startswith("helm upgrade --install ") for one in upgrades)


def test_the_readme_takes_the_tag_from_the_values() -> None:
    """A `--set` is forgotten by the next upgrade, and the tag would fall back."""
    assert "image.tag=" not in README


def test_the_schema_refuses_what_it_does_not_know() -> None:
    def walk(schema: Any, path: str) -> None:
        if isinstance(schema, list):
            for number, one in enumerate(schema):
                walk(one, f"{path}/{number}")
        if not isinstance(schema, dict):
            return
        if "properties" in schema and "type" in schema:
            assert schema.get("additionalProperties") is False, path
        for key, inner in schema.items():
            walk(inner, f"{path}/{key}")

    walk(SCHEMA, "")
    assert set(SCHEMA["properties"]) == {*VALUES, "global"} or set(SCHEMA["properties"]) == {
        *VALUES
    }


@pytest.mark.parametrize("path", sorted(CHART.rglob("*values*.yaml")), ids=lambda path: path.name)
def test_no_values_file_holds_a_secret(path: Path) -> None:
    values = yaml.safe_load(path.read_text("utf-8"))  # comments may show how one looks
    text = yaml.safe_dump(values)
    assert not re.search(r"(?i)(password|secret_key|api_key|token): *[\"']?[A-Za-z0-9/+]{12}", text)
    assert "postgresql://" not in text
