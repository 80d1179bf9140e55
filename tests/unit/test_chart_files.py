"""The chart's copies of the cards, and of how vLLM is started, are those of the repository."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from model_registry import serving
from model_registry.card import CardError, read_cards
from ocr_api import chart
from ocr_api.outbound import addresses
from ocr_api.settings import configs

ROOT = Path(__file__).resolve().parents[2]
HELM = ROOT / "helm"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A copy of configs/, to change."""
    return Path(shutil.copytree(configs(), tmp_path / "configs"))


def test_committed_files_are_a_fresh_rendering() -> None:
    fresh = chart.render(configs())
    kept = {f"files/models/{path.name}" for path in (HELM / "files/models").iterdir()}
    assert kept == {name for name in fresh if name.startswith("files/models/")}
    for name, data in fresh.items():
        assert (HELM / name).read_bytes() == data, f"{name} is old: run `make chart`, and commit it"


def test_servers_are_started_as_the_registry_says() -> None:
    """Every flag of a card, its names and its context, as `vllm serve` gets them."""
    servers = yaml.safe_load(chart.render(configs())["files/servers.yaml"])
    cards = {card.id: card for card in read_cards(configs() / "models") if not card.embedded}
    assert {facts["card"] for facts in servers.values()} == set(cards)
    for facts in servers.values():
        card = cards[facts["card"]]
        assert ["vllm", *facts["args"]] == serving.command(card, host="0.0.0.0", port=8000)
        assert facts["names"] == [card.id, *card.aliases]
        assert facts["plugin"] is ("recto_ngram:NGramGuard" in card.serve)
        assert facts["model"] == card.id


def test_a_server_knows_the_card_that_stands_in_for_it() -> None:
    servers = yaml.safe_load(chart.render(configs())["files/servers.yaml"])
    assert servers["lighton-ocr-2"]["regions"] == "lighton-ocr-2-bbox"
    assert {stem for stem, facts in servers.items() if facts["regions"]} == {"lighton-ocr-2"}


def test_hidden_cards_stay_out_and_embedded_ones_have_no_server() -> None:
    files = chart.render(configs())
    assert "files/models/echo.yaml" not in files
    assert "files/models/rapidocr.yaml" in files
    assert "rapidocr" not in yaml.safe_load(files["files/servers.yaml"])


def test_own_weights_are_what_is_fetched(source: Path) -> None:
    card = source / "models/glm-ocr.yaml"
    card.write_text(card.read_text("utf-8") + "weights: example/own\n", "utf-8")
    facts = yaml.safe_load(chart.render(source)["files/servers.yaml"])["glm-ocr"]
    assert (facts["card"], facts["model"]) == ("zai-org/GLM-OCR", "example/own")
    assert facts["args"][:2] == ["serve", "example/own"]


def test_stale_copies_go_and_the_second_time_nothing_changes(tmp_path: Path, source: Path) -> None:
    folder = tmp_path / "chart"
    chart.write(folder, source)
    (source / "models/qwen3-vl.yaml").unlink()
    assert chart.write(folder, source) == ["files/models/qwen3-vl.yaml", "files/servers.yaml"]
    assert not (folder / "files/models/qwen3-vl.yaml").exists()
    assert chart.write(folder, source) == []


@pytest.mark.parametrize(
    ("name", "said"),
    [("GLM_ocr", "a-z, 0-9 and hyphens"), ("a-name-that-is-too-long", "more than 18 characters")],
)
def test_a_file_name_that_cannot_name_an_object_is_refused(
    source: Path, name: str, said: str
) -> None:
    (source / "models/glm-ocr.yaml").rename(source / f"models/{name}.yaml")
    with pytest.raises(CardError, match=said):
        chart.render(source)


def test_command_writes_and_says_what_changed(tmp_path: Path) -> None:
    (tmp_path / "Chart.yaml").write_text("name: tiny\n")
    done = CliRunner().invoke(chart.chart, [str(tmp_path)])
    assert done.exit_code == 0
    assert "files/servers.yaml" in done.stdout.splitlines()
    assert (tmp_path / "files/recto_ngram.py").read_bytes() == (
        configs() / "vllm/recto_ngram.py"
    ).read_bytes()


def test_command_refuses_a_folder_that_is_no_chart(tmp_path: Path) -> None:
    done = CliRunner().invoke(chart.chart, [str(tmp_path)])
    assert done.exit_code == 1
    assert "holds no Chart.yaml" in done.output
    assert [*tmp_path.iterdir()] == []


def test_network_policy_excludes_what_the_fetcher_refuses() -> None:
    """R10: the second wall has the list of the first, the code that fetches."""
    fetch = yaml.safe_load((HELM / "values.yaml").read_text("utf-8"))["networkPolicy"]["fetch"]
    assert fetch["except"] == [str(net) for net in addresses._NOT_PUBLIC_4]
    assert fetch["exceptIPv6"] == [str(net) for net in addresses._NOT_PUBLIC_6]
    policy = (HELM / "templates/networkpolicies.yaml").read_text("utf-8")
    assert f"cidr: {addresses._PUBLIC_6}\n" in policy
