"""The n-gram guard against vLLM's own rule, in vLLM's environment: see README.md beside this."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs vLLM's environment: make test-vllm")
pytest.importorskip("tiny_vllm", reason="needs ngram.ini: make test-vllm").install()

from vllm.exceptions import VLLMValidationError  # noqa: E402
from vllm.model_executor.models.deepseek_ocr import (  # noqa: E402
    NGramPerReqLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
)
from vllm.sampling_params import SamplingParams  # noqa: E402
from vllm.v1.worker.gpu.sample.logits_processor import (  # noqa: E402
    LogitsContext,
    build_custom_logits_processors,
    build_custom_logits_processors_params_validator,
)

NAME = "recto_ngram:NGramGuard"
SLOTS = 8
LENGTH = 320
GARBAGE = 2**31 - 1
"""Stands in the buffers where no token does."""


class Batches:
    """A guard as vLLM's V2 loader makes it, over buffers of which we know every token."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        buffers = {
            "all_token_ids": torch.full((SLOTS, LENGTH), GARBAGE, dtype=torch.int32),
            "prompt_len": torch.zeros(SLOTS, dtype=torch.int32),
            "prefill_len": torch.zeros(SLOTS, dtype=torch.int32),
            "total_len": torch.zeros(SLOTS, dtype=torch.int32),
        }
        self.states = SimpleNamespace(
            device=torch.device("cpu"),
            max_num_reqs=SLOTS,
            vocab_size=0,
            **{name: SimpleNamespace(gpu=tensor) for name, tensor in buffers.items()},
        )
        (self.guard,) = build_custom_logits_processors(None, self.states, False, [NAME])

    def add(self, slot: int, prompt: list[int], output: list[int], rule: dict[str, Any]) -> bool:
        """Put a request into a slot; what the slot held before stays behind its last token."""
        tokens = torch.tensor(prompt + output, dtype=torch.int32)
        self.states.all_token_ids.gpu[slot, : len(tokens)] = tokens
        self.states.prompt_len.gpu[slot] = len(prompt)
        self.states.prefill_len.gpu[slot] = len(tokens)
        self.states.total_len.gpu[slot] = len(tokens)
        return bool(self.guard.add_request(slot, SamplingParams(extra_args=rule or None)))

    def context(self, slots: list[int], drafts: list[list[int]]) -> LogitsContext:
        """Lay the rows out as the model runner does: a request's rows follow each other."""
        rows, local, fed = [], [], []
        for slot, draft in zip(slots, drafts, strict=True):
            total = int(self.states.total_len.gpu[slot])
            last = int(self.states.all_token_ids.gpu[slot, total - 1])
            rows += [slot] * (1 + len(draft))
            local += range(1 + len(draft))
            fed += [last, *draft]
        pos = [int(self.states.total_len.gpu[s]) - 1 + k for s, k in zip(rows, local, strict=True)]
        mapping = torch.tensor(slots, dtype=torch.int32)
        return LogitsContext(
            expanded_idx_mapping=torch.tensor(rows, dtype=torch.int32),
            idx_mapping=mapping,
            idx_mapping_np=mapping.numpy(),
            expanded_local_pos=torch.tensor(local, dtype=torch.int32),
            input_ids=torch.tensor(fed, dtype=torch.int32),
            pos=torch.tensor(pos),
            seq_lens_upper_bound_np=mapping.numpy(),
        )


def random_rule(chance: random.Random, letters: int) -> dict[str, Any]:
    """A rule, mostly of short n-grams, so that bans are frequent; one in five asks for none."""
    if chance.random() < 0.2:
        return {}
    size = chance.choice([2, 2, 3, 4, 6, 30, 64])
    window = chance.choice([size, size + 1, 90, 100, 250, 1024])
    rule: dict[str, Any] = {"ngram_size": size}
    if window != 100:
        rule["window_size"] = max(size, window)
    if chance.random() < 0.5:
        rule["whitelist_token_ids"] = chance.sample(range(letters + 9), chance.randint(0, 4))
    return rule


def random_text(chance: random.Random, letters: int, most: int) -> list[int]:
    """Tokens, sometimes a loop, so that long n-grams repeat too."""
    length = chance.randint(0, most)
    if chance.random() < 0.4:
        unit = [chance.randrange(letters) for _ in range(chance.randint(1, 12))]
        return (unit * (length // len(unit) + 1))[:length]
    return [chance.randrange(letters) for _ in range(length)]


def expected(logits: Any, row: int, answer: list[int], rule: dict[str, Any]) -> Any:
    """Return a row as vLLM's own processor leaves it."""
    wanted = logits[row].clone()
    if not rule:
        return wanted
    reference = NoRepeatNGramLogitsProcessor(
        rule["ngram_size"],
        rule.get("window_size", 100),
        set(rule.get("whitelist_token_ids", ())),
    )
    return reference(answer, wanted)


@pytest.mark.parametrize("seed", range(6))
def test_bans_are_those_of_vllm(seed: int) -> None:
    """Sixty batches each, over recycled slots; counts say that the batches were worth it."""
    batches = Batches(seed)
    chance = batches.chance
    seen = {"bans": 0, "draft": 0, "long": 0, "spared": 0}
    for _ in range(60):
        letters, vocabulary = chance.randint(2, 6), chance.randint(20, 50)
        slots = chance.sample(range(SLOTS), chance.randint(1, SLOTS))
        drafts = [random_text(chance, letters, 3) for _ in slots]
        answers, rules = [], []
        for slot in slots:
            answers.append(random_text(chance, letters, 250))
            rules.append(random_rule(chance, letters))
            prompt = [chance.choice([1, GARBAGE]) for _ in range(chance.randint(1, 60))]
            assert batches.add(slot, prompt, answers[-1], rules[-1]) == bool(rules[-1])
        batches.guard.apply_staged_writes()
        logits = torch.randn(sum(1 + len(draft) for draft in drafts), vocabulary)
        logits[:, 3] = -torch.inf  # as a grammar would leave it
        before = logits.clone()
        assert batches.guard.apply(logits, batches.context(slots, drafts)) is logits
        row = 0
        for answer, rule, draft in zip(answers, rules, drafts, strict=True):
            for local in range(1 + len(draft)):
                text = answer + draft[:local]
                assert torch.equal(logits[row], expected(before, row, text, rule)), (text, rule)
                banned = int((logits[row] != before[row]).sum())
                bare = expected(
                    before, row, text, {**rule, "whitelist_token_ids": []} if rule else {}
                )
                seen["bans"] += banned
                seen["draft"] += banned if local else 0
                seen["long"] += banned if rule.get("ngram_size", 0) >= 30 else 0
                seen["spared"] += int((bare != before[row]).sum()) - banned
                row += 1
    assert min(seen.values()) >= 5, seen
    assert seen["bans"] > 200, seen


def test_a_batch_without_rules_is_left_alone() -> None:
    batches = Batches(0)
    assert not batches.add(2, [1], [0, 1, 0, 1, 0], {})
    batches.guard.apply_staged_writes()
    logits = torch.zeros(1, 5)
    batches.guard.apply(logits, batches.context([2], [[]]))
    assert torch.equal(logits, torch.zeros(1, 5))


def test_a_slot_forgets_the_request_before() -> None:
    batches = Batches(0)
    logits = torch.zeros(1, 5)
    assert batches.add(2, [1], [0, 1, 0, 1, 0], {"ngram_size": 2})
    batches.guard.apply_staged_writes()
    batches.guard.apply(logits, batches.context([2], [[]]))
    assert logits.tolist() == [[0, -torch.inf, 0, 0, 0]]
    assert batches.add(3, [1], [4, 4], {"ngram_size": 2})
    assert not batches.add(2, [1], [0, 1, 0, 1, 0], {})
    batches.guard.apply_staged_writes()
    logits = torch.zeros(2, 5)
    batches.guard.apply(logits, batches.context([2, 3], [[], []]))
    assert logits.tolist() == [[0] * 5, [0, 0, 0, 0, -torch.inf]]


def test_tokens_outside_the_vocabulary_are_passed_over() -> None:
    batches = Batches(0)
    batches.add(0, [1], [0, 7, 0, 7, 0], {"ngram_size": 2})
    batches.guard.apply_staged_writes()
    logits = torch.zeros(1, 5)
    batches.guard.apply(logits, batches.context([0], [[]]))
    assert torch.equal(logits, torch.zeros(1, 5))


def test_validator_of_vllm_refuses_bad_values() -> None:
    validate = build_custom_logits_processors_params_validator((NAME,))
    validate(SamplingParams())
    validate(SamplingParams(extra_args={"ngram_size": 30, "whitelist_token_ids": [9, 10]}))
    with pytest.raises(VLLMValidationError, match="list of token ids"):
        validate(SamplingParams(extra_args={"ngram_size": 30, "whitelist_token_ids": "[9]"}))


def test_why_it_exists() -> None:
    """vLLM's own class for DeepSeek-OCR is still one that the V2 runner refuses."""
    with pytest.raises(ValueError, match="not a subclass"):
        build_custom_logits_processors(None, Batches(0).states, False, [NGramPerReqLogitsProcessor])
