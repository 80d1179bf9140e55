"""What the n-gram guard refuses, without vLLM or torch; its bans are tested in tests/vllm."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

FILE = Path(__file__).resolve().parents[2] / "configs" / "vllm" / "recto_ngram.py"
BASE = "vllm.v1.worker.gpu.sample.logits_processor"


@pytest.fixture
def guard(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module, loaded beside an empty vLLM; a look for torch would fail."""
    base = ModuleType(BASE)
    base.LogitsProcessor = object  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, BASE, base)
    for depth in range(1, BASE.count(".") + 1):
        name = BASE.rsplit(".", depth)[0]
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "torch", None)
    spec = importlib.util.spec_from_file_location("recto_ngram", FILE)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        (None, None),
        ({}, None),
        ({"window_size": "no matter"}, None),
        ({"ngram_size": None}, None),
        ({"ngram_size": 2}, (2, 100, ())),
        ({"ngram_size": 64, "window_size": 64}, (64, 64, ())),
        (
            {"ngram_size": 30, "window_size": 1024, "whitelist_token_ids": [9, 10, 9]},
            (30, 1024, (9, 10)),
        ),
        ({"ngram_size": 30, "window_size": 90, "whitelist_token_ids": None}, (30, 90, ())),
        (
            {"ngram_size": 3, "whitelist_token_ids": list(range(16))},
            (3, 100, tuple(range(16))),
        ),
    ],
)
def test_rule(guard: Any, arguments: Any, rule: Any) -> None:
    assert guard.read_rule(arguments) == rule
    guard.NGramGuard.validate_params(SimpleNamespace(extra_args=arguments))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ngram_size": 1}, "ngram_size must be a whole number from 2 to 64, got 1"),
        ({"ngram_size": 65}, "from 2 to 64, got 65"),
        ({"ngram_size": "30"}, "got '30'"),
        ({"ngram_size": 30.0}, "got 30.0"),
        ({"ngram_size": True}, "got True"),
        ({"ngram_size": 30, "window_size": 29}, "window_size .* from 30 to 1024, got 29"),
        ({"ngram_size": 30, "window_size": 1025}, "got 1025"),
        ({"ngram_size": 30, "window_size": None}, "got None"),
        (
            {"ngram_size": 30, "whitelist_token_ids": "[9, 10]"},
            r"list of token ids, got '\[9, 10\]'",
        ),
        ({"ngram_size": 30, "whitelist_token_ids": [9, "10"]}, "list of token ids"),
        ({"ngram_size": 30, "whitelist_token_ids": [-1]}, "list of token ids"),
        ({"ngram_size": 30, "whitelist_token_ids": [True]}, "list of token ids"),
        ({"ngram_size": 30, "whitelist_token_ids": 9}, "list of token ids"),
        ({"ngram_size": 30, "whitelist_token_ids": list(range(17))}, "name 16 tokens, got 17"),
    ],
)
def test_refused(guard: Any, arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        guard.NGramGuard.validate_params(SimpleNamespace(extra_args=arguments))
