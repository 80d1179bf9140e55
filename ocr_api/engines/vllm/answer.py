"""An answer that comes in events: split, read, watched, and made into a reading.

The events are server-sent ones as OpenAI's chat API sends them: lines ``data: JSON``, and
``data: [DONE]`` at the end. Each line is one event, since JSON on a wire has no line break.
"""

from __future__ import annotations

import logging
from typing import Any, TypeGuard

import orjson

from files_api.kit.errors import PageFailed
from files_api.kit.observe import log
from ocr_api.engines import Task
from ocr_api.engines.vllm import errors
from ocr_api.engines.vllm.tokens import align
from ocr_api.markup.loops import Bad, Watch, cut, tail_loop
from ocr_api.result import Reading, Usage

DONE = b"[DONE]"

MAX_BYTES = 16_000_000
_MAX_LINE_BYTES = 4_000_000
_MAX_TOKENS = 10_000_000
"""No context is that long; a count above is a mistake."""
_WHOLE = frozenset({"stop", "length", "repetition"})


class Lines:
    """Splits the bytes of a stream into the data of its events, wherever the bytes were cut."""

    def __init__(self) -> None:
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._bytes = 0

    def feed(self, data: bytes) -> list[bytes]:
        """Return the data of the events that end in these bytes.

        Raises:
            PageFailed: the stream has more than 16 MB, or a line of it more than 4 MB.
        """
        self._bytes += len(data)
        end = data.rfind(b"\n") + 1
        if not end:
            self._hold(data)
            return []
        lines = b"".join((*self._held, data[:end])).split(b"\n")
        self._held.clear()
        self._held_bytes = 0
        self._hold(data[end:])
        return [event for line in lines if line[:5] == b"data:" and (event := line[5:].strip())]

    def _hold(self, data: bytes) -> None:
        self._held.append(data)
        self._held_bytes += len(data)
        if self._bytes > MAX_BYTES or self._held_bytes > _MAX_LINE_BYTES:
            raise PageFailed("The answer of the model's server is too large.")


class Answer:
    """What a server has said about one task so far."""

    def __init__(self, task: Task) -> None:
        self.stopped: Bad | None = None
        """Why nothing more should be read of it."""
        self.begun = False
        """Whether anything of it has come."""
        self.model: str | None = None
        """What the server calls the model that answers."""
        self._task = task
        self._finish: str | None = None
        self._watch = Watch(task.max_chars)
        self._pieces: list[str] = []
        self._tokens: list[Any] = []
        self._usage: Any = None

    def add(self, event: bytes) -> None:
        """Take one event of a stream, or the one JSON body of a server that does not stream.

        Raises:
            PageFailed: it makes no sense.
            AppError: it is an error, as `errors.refusal` knows it.
        """
        self.begun = True
        try:
            said = orjson.loads(event)
        except orjson.JSONDecodeError:
            raise PageFailed("The answer of the model's server is no JSON.") from None
        if not isinstance(said, dict):
            raise _senseless()
        if self.model is None and isinstance(model := said.get("model"), str):
            self.model = model
        if usage := said.get("usage"):
            self._usage = usage
        choices = said.get("choices")
        if choices:
            self._choose(choices)
        elif said.get("error"):
            raise self._refused(event)

    def reading(self) -> Reading:
        """Return what was said; of a loop, one unit.

        Raises:
            PageFailed, EngineUnavailable: the answer is not whole.
        """
        reason = self.stopped or self._finish
        if reason is None or (self.stopped is None and reason not in _WHOLE):
            raise errors.ending(reason)
        whole = text = "".join(self._pieces)
        if (self.stopped or reason == "repetition") and (loop := tail_loop(text)):
            text = cut(text, loop)
        tokens = align(whole, self._tokens, len(text)) if self._tokens else ()
        if self._tokens and not tokens and text:
            self._warn("tokens_do_not_fit")
        return Reading(text=text, usage=self._counted(), finish_reason=reason, tokens=tokens)

    def _choose(self, choices: Any) -> None:
        choice = choices[0] if isinstance(choices, list) else None
        if not isinstance(choice, dict):
            raise _senseless()
        if finish := choice.get("finish_reason"):
            self._finish = str(finish)
        said = choice.get("delta") or choice.get("message")
        piece = said.get("content") if isinstance(said, dict) else None
        if piece:
            if not isinstance(piece, str):
                raise _senseless()
            self._pieces.append(piece)
            self.stopped = self._watch.feed(piece)
        if self._task.want_probabilities and (probabilities := choice.get("logprobs")):
            found = probabilities.get("content") if isinstance(probabilities, dict) else None
            self._tokens += found if isinstance(found, list) else ()

    def _refused(self, event: bytes) -> Exception:
        code = (errors.error_of(event) or {}).get("code")
        return errors.refusal(self._task, code if isinstance(code, int) else 500, event)

    def _counted(self) -> Usage:
        """Return the server's counts; one that cannot be true is 0."""
        if self._usage is None and self.stopped:
            return Usage()
        usage = self._usage if isinstance(self._usage, dict) else {}
        prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
        if not (_is_count(prompt) and _is_count(completion)):
            self._warn("usage_is_wrong")
        return Usage(prompt if _is_count(prompt) else 0, completion if _is_count(completion) else 0)

    def _warn(self, event: str) -> None:
        level = logging.WARNING
        log(__name__, event, level=level, card=self._task.card.id, task=self._task.request_id)


def _is_count(count: object) -> TypeGuard[int]:
    return type(count) is int and 0 <= count <= _MAX_TOKENS


def _senseless() -> PageFailed:
    return PageFailed("The answer of the model's server makes no sense.")
