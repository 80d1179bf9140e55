"""What a server's refusals and broken connections mean to us.

Messages say what happened and never quote the server: its words may hold the caller's prompt.
"""

from __future__ import annotations

import re
from typing import Any

import aiohttp
import orjson

from files_api.kit.errors import (
    AppError,
    ContextTooLong,
    EngineBusy,
    EngineUnavailable,
    PageFailed,
    SchemaRefused,
)
from ocr_api.engines import PageRefused, Task

NOWHERE = "No server is named that runs {card}."

_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (aiohttp.ClientConnectorDNSError, "has a name that could not be resolved"),
    (aiohttp.ClientConnectorCertificateError, "has a TLS certificate that is not valid"),
    (aiohttp.ClientSSLError, "takes no TLS connection"),
    (aiohttp.ClientConnectorError, "takes no connection"),
    (aiohttp.ServerTimeoutError, "takes no connection in time"),
    (aiohttp.ServerDisconnectedError, "hung up without an answer"),
    (aiohttp.ClientOSError, "broke the connection without an answer"),
    (aiohttp.ClientPayloadError, "broke the connection without an answer"),
    (aiohttp.InvalidURL, "has no valid address"),
)

_NUMBER = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?", re.ASCII)

_BUSY = (EngineBusy, "takes no more work now")
_KEY = (EngineUnavailable, "refuses the key")
_ELSEWHERE = (EngineUnavailable, "has moved to another address")
_STATUSES: dict[int, tuple[type[EngineUnavailable], str]] = {
    **dict.fromkeys((301, 302, 303, 307, 308), _ELSEWHERE),
    **dict.fromkeys((401, 403), _KEY),
    404: (EngineUnavailable, "does not serve the model, or its address should end in /v1"),
    **dict.fromkeys((429, 503), _BUSY),
    **dict.fromkeys((502, 504), (EngineUnavailable, "is behind a proxy that gets no answer")),
}

# Words of vLLM's refusals (vllm/renderers, vllm/v1/structured_output), and of OpenAI's.
_CONTEXT = (
    "context length",
    "context window",
    "context_length_exceeded",
    "maximum model length",
    "max_model_len",
    "too long",
)
_SCHEMA = ("schema", "grammar", "response_format", "structured", "guided")


class AnswerTooLong(ContextTooLong):
    """More tokens of answer were asked for than the server's whole context has."""


def unreachable(card_id: str, error: Exception) -> EngineUnavailable:
    """Return the error of a server that gave no answer at all."""
    known = (reason for kind, reason in _REASONS if isinstance(error, kind))
    reason = next(known, "does not speak valid HTTP")
    return EngineUnavailable(f"The server that runs {card_id} {reason}.")


def refusal(task: Task, status: int, said: bytes, retry_after: str | None = None) -> AppError:
    """Return the error that a status other than 200 means.

    Args:
        task: what was asked.
        status: of HTTP, or the ``code`` of an error inside a stream.
        said: the error body; it is looked through and never passed on.
        retry_after: the header of that name, where there is one.
    """
    if known := _STATUSES.get(status):
        seconds = _seconds(retry_after) if known is _BUSY else None
        return known[0](does(task.card.id, status), seconds=seconds)
    words = _words(said) if status in (400, 422) else ""
    if (error_of(said) or {}).get("param") == "max_tokens" and "max_model_len" in words:
        return AnswerTooLong()
    if any(word in words for word in _CONTEXT):
        return ContextTooLong()
    if task.schema is not None and any(word in words for word in _SCHEMA):
        return SchemaRefused()
    failure = PageRefused if status in (400, 422) else PageFailed
    return failure(does(task.card.id, status))


def _seconds(retry_after: str | None) -> float | None:
    """Return the seconds of a ``Retry-After`` header (RFC 9110, 10.2.3); None where it has none.

    A number only: vLLM and the proxies in front of it send no dates.
    """
    text = (retry_after or "").strip()
    return float(text) if _NUMBER.fullmatch(text) else None


def does(card_id: str, status: int) -> str:
    """Return the sentence that says what a status other than 200 means."""
    _, what = _STATUSES.get(status, (PageFailed, "answered with an error"))
    return f"The server that runs {card_id} {what} ({status})."


def ending(reason: str | None) -> AppError:
    """Return the error of an answer whose ``finish_reason`` is none of a whole answer."""
    if reason == "abort":
        return EngineUnavailable("The model's server gave the page up; try again.")
    if reason is None:
        return PageFailed("The answer of the model's server broke off, or is empty.")
    return PageFailed("The model's server ended the answer with an error.")


def error_of(said: bytes) -> dict[str, Any] | None:
    """Return the error object of a JSON body, in OpenAI's shape or vLLM's older flat one."""
    try:
        body = orjson.loads(said)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(body, dict):
        return None
    error = body.get("error", body)
    return error if isinstance(error, dict) else None


def _words(said: bytes) -> str:
    """Return what identifies a refusal, in lower case."""
    error = error_of(said) or {}
    return " ".join(str(error.get(name, "")) for name in ("message", "param", "code")).lower()
