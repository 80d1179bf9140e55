"""The command that starts a server of a card's model."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from model_registry.card import Card, read_cards
from model_registry.serving import NoServerError, command, environment, served_names, shell

CARDS = read_cards(Path(__file__).resolve().parents[2] / "configs" / "models")
SERVED = [card for card in CARDS if not card.embedded]


def make_card(**facts: object) -> Card:
    plain = {"engine": "e", "parser": "p", "name": "n", "description": "d", "licence": "MIT"}
    return Card.model_validate({"id": "org/a", "source": "s", **plain, **facts})


def test_the_command_of_a_card() -> None:
    card = make_card(aliases=("a", "b"), context=8192, serve=("--seed", "1"))
    assert served_names(card) == ["org/a", "a", "b"]
    assert command(card, program="/bin/vllm", host="127.0.0.1", port=8001) == [
        *("/bin/vllm", "serve", "org/a", "--served-model-name", "org/a", "a", "b"),
        *("--host", "127.0.0.1", "--port", "8001", "--max-model-len", "8192", "--seed", "1"),
    ]


def test_weights_from_elsewhere_keep_the_names() -> None:
    words = command(make_card(weights="/models/a"), host="0.0.0.0", port=1)
    assert words == [
        *("vllm", "serve", "/models/a", "--served-model-name", "org/a"),
        *("--host", "0.0.0.0", "--port", "1"),
    ]


def test_the_environment_knows_our_plugin_and_reports_nothing() -> None:
    assert environment(Path("/opt/recto/vllm")) == {
        "PYTHONPATH": "/opt/recto/vllm",
        "VLLM_NO_USAGE_STATS": "1",
    }


def test_an_embedded_card_has_no_command() -> None:
    card = make_card(embedded=True)
    with pytest.raises(NoServerError, match="org/a runs inside Recto and needs no server"):
        command(card, host="127.0.0.1", port=8001)
    with pytest.raises(NoServerError):
        shell(card, host="127.0.0.1", port=8001)


@pytest.mark.parametrize("card", SERVED, ids=lambda card: card.id)
def test_the_line_for_a_shell_is_the_command(card: Card) -> None:
    line = shell(card, host="::1", port=8001, plugins=Path("/a folder"))
    words = command(card, host="::1", port=8001)
    plugin = ["PYTHONPATH=/a folder"] if "recto_ngram:NGramGuard" in words else []
    assert shlex.split(line) == [*plugin, "VLLM_NO_USAGE_STATS=1", *words]
    assert shell(card, host="::1", port=8001).startswith("vllm serve ")


def test_the_line_of_a_card_that_ships() -> None:
    card = next(card for card in SERVED if card.id == "zai-org/GLM-OCR")
    assert shell(card, host="127.0.0.1", port=8001, plugins=Path("configs/vllm")) == (
        "VLLM_NO_USAGE_STATS=1 vllm serve zai-org/GLM-OCR"
        " --served-model-name zai-org/GLM-OCR glm-ocr --host 127.0.0.1 --port 8001"
        " --max-model-len 16384 --limit-mm-per-prompt '{\"image\":1}'"
        " --max-num-batched-tokens 8192"
        ' --speculative-config \'{"method":"mtp","num_speculative_tokens":1}\''
        " --stream-interval 64 --max-num-queued-reqs 1024 --shutdown-timeout 60"
        " --allowed-media-domains invalid.example"
    )


def test_no_two_servers_answer_to_one_name() -> None:
    names = [name for card in SERVED for name in served_names(card)]
    assert len({*names}) == len(names)
