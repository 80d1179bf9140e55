"""The body of one chat request, made of bytes: the picture is encoded once and never parsed.

Why: ``json.dumps`` of a page of 400 kB costs more than all else that is done for the page.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import aiohttp
import orjson
import pybase64
from aiohttp.abc import AbstractStreamWriter

from ocr_api.engines import Task

_IMAGE_HEAD = b'{"type":"image_url","image_url":{"url":"data:image/jpeg;base64,'
_IMAGE_TAIL = b'"}}'


class Body(aiohttp.Payload):
    """A JSON body in parts, sent one after the other without being joined."""

    def __init__(self, parts: Sequence[bytes]) -> None:
        super().__init__(parts, content_type="application/json")
        self._size = sum(map(len, parts))

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Return the whole body as text."""
        return b"".join(self._value).decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Send every part."""
        for part in self._value:
            await writer.write(part)


def parts(task: Task, image: bytes | None, max_tokens: int) -> list[bytes]:
    """Return the JSON body of a chat request in parts.

    Args:
        task: what is asked; only the sampling fields that it sets are sent.
        image: a JPEG; before the text, unless the card's model was trained otherwise.
        max_tokens: most tokens of the answer; without it a server gives the rest of its context.
    """
    picture = [] if image is None else [_IMAGE_HEAD, pybase64.b64encode(image), _IMAGE_TAIL]
    words = []
    if task.prompt:
        # The command line may give half a character, which has no UTF-8.
        text = task.prompt.encode("utf-8", "replace").decode()
        words = [orjson.dumps({"type": "text", "text": text})]
    first, second = (words, picture) if task.card.text_first else (picture, words)
    content = [*first, b",", *second] if first and second else [*first, *second]
    head = b'{"messages":[{"role":"user","content":['
    return [head, *content, b"]}],", orjson.dumps(_fields(task, max_tokens))[1:]]


def _fields(task: Task, max_tokens: int) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "model": task.card.id,
        "max_tokens": max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
        **task.sampling.model_dump(exclude_none=True),
    }
    if _is_vllm(task):
        # An answer that is stopped has no last event with the usage; this puts it into each.
        fields["stream_options"] = {"include_usage": True, "continuous_usage_stats": True}
    if task.schema is not None:
        answer = {"name": "answer", "schema": dict(task.schema), "strict": True}
        fields["response_format"] = {"type": "json_schema", "json_schema": answer}
    if task.want_probabilities:
        fields |= {"logprobs": True, "top_logprobs": 0}
    return fields


def _is_vllm(task: Task) -> bool:
    """Return whether the card speaks vLLM's own dialect, which other servers may refuse."""
    return any(
        sampling.repetition_detection is not None or sampling.vllm_xargs is not None
        for sampling in (task.sampling, task.card.sampling)
    )
