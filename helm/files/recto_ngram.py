"""A guard against repeated n-grams for vLLM's V2 model runner: the bans of vLLM's own V1 class.

DeepSeek-OCR is published with a processor that only the V1 runner loads; on a GPU vLLM runs V2
and refuses it. This is the same rule in the V2 interface, which is the same in vLLM 0.32.0 and
0.33.0. It stands alone: put this folder on PYTHONPATH and start vLLM with

    --logits-processors recto_ngram:NGramGuard

A request asks for it in ``vllm_xargs``: ``ngram_size`` and ``window_size`` in tokens, and
``whitelist_token_ids``, a list of token ids that are never banned. A token is banned when it
would complete an n-gram that already stands in the last ``window_size`` tokens of the answer.

Source of the rule: ``NoRepeatNGramLogitsProcessor`` in vLLM's ``models/deepseek_ocr.py``.

Why torch is imported late: the API server loads this module only to check what a request asks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor

if TYPE_CHECKING:
    import torch
    from vllm.config import VllmConfig
    from vllm.sampling_params import SamplingParams
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext, LogitsProcRequestState

SIZES = (2, 64)
"""Least and most tokens of an n-gram. They bound the work of a step, as the next two do."""
MOST_WINDOW = 1024
MOST_WHITELISTED = 16
DEFAULT_WINDOW = 100
"""Tokens, when a request names none: what the V1 class takes."""
NOBODY = -1
"""Fills the whitelist up; no token has this id."""


class Rule(NamedTuple):
    """What one request asked for, in tokens and token ids."""

    size: int
    window: int
    whitelist: tuple[int, ...]


def read_rule(arguments: Mapping[str, object] | None) -> Rule | None:
    """Return the rule in a request's ``vllm_xargs``, or None where it asks for none.

    Raises:
        ValueError: A value is of the wrong kind or out of bounds.
    """
    if not arguments or arguments.get("ngram_size") is None:
        return None
    size = _whole("ngram_size", arguments["ngram_size"], *SIZES)
    window = arguments.get("window_size", DEFAULT_WINDOW)
    window = _whole("window_size", window, size, MOST_WINDOW)
    ids = arguments.get("whitelist_token_ids")
    ids = [] if ids is None else ids
    if not isinstance(ids, list | tuple) or not all(type(i) is int and i >= 0 for i in ids):
        raise ValueError(f"whitelist_token_ids must be a list of token ids, got {ids!r}")
    whitelist = tuple(sorted(set(ids)))
    if len(whitelist) > MOST_WHITELISTED:
        raise ValueError(
            f"whitelist_token_ids may name {MOST_WHITELISTED} tokens, got {len(whitelist)}"
        )
    return Rule(size, window, whitelist)


def _whole(name: str, value: object, least: int, most: int) -> int:
    """Return a whole number within bounds; true and 30.0 are none."""
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{name} must be a whole number from {least} to {most}, got {value!r}")
    return value


class NGramGuard(LogitsProcessor):
    """Bans tokens that would repeat an n-gram, for the requests that ask for it.

    Rules stand in a table with one row per request slot: size, window, whitelist. Its host copy
    says how wide a step must look, so the device is never asked; its device copy is replaced, in
    the order of the stream, when a request brings another rule into a slot.
    """

    def __init__(self, vllm_config: VllmConfig, req_states: LogitsProcRequestState) -> None:
        import torch  # noqa: PLC0415

        super().__init__(vllm_config, req_states)
        self._states = req_states
        shape = (req_states.max_num_reqs, 2 + MOST_WHITELISTED)
        self._table = torch.zeros(shape, dtype=torch.int64)
        self._host = self._table.numpy()
        self._rules = self._table.to(req_states.device)
        self._changed = False

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Refuse a request whose arguments are no rule; vLLM answers 400 with the message."""
        read_rule(sampling_params.extra_args)

    def add_request(self, req_idx: int, sampling_params: SamplingParams) -> bool:
        """Write the rule of a slot's new request, or none, over that of the one before."""
        rule = read_rule(sampling_params.extra_args) or Rule(0, 0, ())
        fill = (NOBODY,) * (MOST_WHITELISTED - len(rule.whitelist))
        row = (rule.size, rule.window, *rule.whitelist, *fill)
        if tuple(self._host[req_idx]) != row:
            self._host[req_idx] = row
            self._changed = True
        return rule.size > 0

    def apply_staged_writes(self) -> None:
        """Send changed rules to the device without waiting for it.

        The copy is of a pinned block of its own: the host may write the table again before the
        device has read it, and torch keeps the block until it has.
        """
        if not self._changed:
            return
        block = self._table.clone()
        if self._states.device.type == "cuda":
            block = block.pin_memory()
        self._rules = block.to(self._states.device, non_blocking=True)
        self._changed = False

    def apply(self, logits: torch.Tensor, ctx: LogitsContext) -> torch.Tensor:
        """Lower the banned tokens of every row to minus infinity, in place.

        Args:
            logits: [rows, vocabulary] floats.
            ctx: The step's layout; a request has one row, and one more per draft token.

        Returns:
            The same tensor.
        """
        active = self._host[ctx.idx_mapping_np]
        longest, widest = (int(most) for most in active[:, :2].max(axis=0, initial=0))
        if not longest:
            return logits
        tail, written = self._tail(ctx, widest + longest - 1)
        rules = self._rules[ctx.expanded_idx_mapping.long()]
        banned = _repeats(tail, written, rules, longest - 1)
        _lower(logits, tail[:, longest - 1 :], banned)
        return logits

    def _tail(self, ctx: LogitsContext, width: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the tokens before each row, and how many of them are the answer's.

        The committed tokens stand in the slot's buffer; behind them stand this step's draft
        tokens, which are only in ``ctx.input_ids``: there the row of local position 0 holds the
        last committed token, and the draft tokens follow it.

        Returns:
            [rows, width] token ids, the newest last. What lies before the answer's first token is
            whatever the buffer holds.
            [rows] tokens of the answer, draft tokens included.
        """
        import torch  # noqa: PLC0415

        states, local = self._states, ctx.expanded_local_pos.long()
        slots = ctx.expanded_idx_mapping.long()
        buffer = states.all_token_ids.gpu
        total = states.total_len.gpu[slots].long()
        back = torch.arange(-width, 0, device=local.device)
        place = (total + local)[:, None] + back
        old = buffer[slots[:, None], place.clamp(0, buffer.shape[1] - 1)]
        row = torch.arange(len(local), device=local.device)
        source = (row - local + 1 - total)[:, None] + place
        new = ctx.input_ids[source.clamp(0, len(local) - 1)]
        tail = torch.where(place < total[:, None], old, new).long()
        return tail, total + local - states.prompt_len.gpu[slots].long()


def _repeats(
    tail: torch.Tensor, written: torch.Tensor, rules: torch.Tensor, depth: int
) -> torch.Tensor:
    """Return which of the window's tokens complete an n-gram whose beginning the answer ends with.

    Every token of the window is a candidate: it is compared, over the ``depth`` tokens before
    it, with the end of the tail. A row with a shorter n-gram does not look at the oldest of them.
    The comparison is the largest array: rows * window * depth bytes.

    Args:
        tail: [rows, depth + window] token ids, the newest last; window is the batch's widest.
        written: [rows] tokens of the answer so far.
        rules: [rows, 2 + whitelist] size, window, whitelisted ids; size 0 for no rule.
        depth: The batch's longest n-gram less one, in tokens.

    Returns:
        [rows, window] truth values.
    """
    import torch  # noqa: PLC0415

    size, window = rules[:, :1], rules[:, 1:2]
    runs = tail.unfold(1, depth, 1)
    back = torch.arange(depth, 0, -1, device=tail.device)
    same = (runs[:, :-1] == runs[:, -1:]) | (back >= size[:, :, None])
    widest = tail.shape[1] - depth
    first = widest - torch.minimum(window, written[:, None]) + size - 1
    inside = torch.arange(widest, device=tail.device) >= first
    spared = (tail[:, depth:, None] == rules[:, None, 2:]).any(-1)
    return same.all(-1) & inside & ~spared & (size > 0)


def _lower(logits: torch.Tensor, tokens: torch.Tensor, banned: torch.Tensor) -> None:
    """Set logits to minus infinity where a token is banned; nothing is ever raised.

    Args:
        logits: [rows, vocabulary] floats, changed in place.
        tokens: [rows, window] token ids; those outside the vocabulary are passed over.
        banned: [rows, window] truth values.
    """
    import torch  # noqa: PLC0415

    known = (tokens >= 0) & (tokens < logits.shape[1])
    floor = torch.full_like(tokens, torch.inf, dtype=logits.dtype)
    floor.masked_fill_(banned & known, -torch.inf)
    logits.scatter_reduce_(1, tokens.clamp(0, logits.shape[1] - 1), floor, "amin")
