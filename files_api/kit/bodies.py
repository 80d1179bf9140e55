"""JSON bodies, read under bounds: of one body, of its values, of all bodies at once.

Why: a document may travel inside a request, so a body may be large; but a large body must be one
long string. Fifteen megabytes of `[[],[],…` would become two gigabytes of Python lists.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import orjson
from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect

from files_api.kit import errors

Body = TypeVar("Body", bound=BaseModel)

MAX_VALUES = 100_000
"""Most commas and opening brackets in a body, an upper bound of its values; base64 has none."""


SMALL_BYTES = 64 * 1024
"""Bodies up to this size are not counted: large ones must not keep everybody out."""


class ClientGoneError(Exception):
    """The client closed the connection before the answer was ready."""


class JsonBodies:
    """Reads the JSON bodies of one process."""

    def __init__(self, max_bytes: int, total_bytes: int) -> None:
        """Take the most bytes of one body, and of all that are held at the same time."""
        self._max_bytes = max_bytes
        self._total_bytes = total_bytes
        self._held = 0

    @asynccontextmanager
    async def read(
        self, request: Request, model: type[Body], absent: object = None
    ) -> AsyncIterator[Body]:
        """Give the body as a model, whatever content type the client declared.

        Its bytes count as held until the block ends, because the model holds its strings.

        Args:
            request: the request; its body must not have been read.
            model: the shape.
            absent: what an empty body means; None makes it an error.

        Raises:
            TooLarge: the body is longer; counted as it comes, never trusted from a header.
            Overloaded: all bodies together would be too long.
            BodyTimeout: the body came too slowly (`files_api.kit.patience`).
            InvalidJson: it is not JSON, or empty.
            InvalidRequest: it has too many values.
            ValidationFailed: it is JSON of another shape; the message names the field.
            ClientGoneError: the client left before its end.
        """
        text = await self._receive(request)
        size = _counted(len(text))
        try:
            body = _as_model(text, model, absent)
            del text
            yield body
        finally:
            self._held -= size

    async def _receive(self, request: Request) -> bytearray:
        """Return the whole body, counted as held; nothing is held when this raises."""
        text = bytearray()
        try:
            async for chunk in request.stream():
                more = _counted(len(text) + len(chunk)) - _counted(len(text))
                self._check_room(len(text) + len(chunk), more)
                text += chunk
                self._held += more
        except BaseException as error:
            self._held -= _counted(len(text))
            if isinstance(error, ClientDisconnect):
                raise ClientGoneError from error
            raise
        return text

    def _check_room(self, size: int, more: int) -> None:
        if size > self._max_bytes:
            raise errors.TooLarge(
                f"The request body is longer than {self._max_bytes} bytes. "
                "Upload large documents with POST /v1/files."
            )
        if self._held + more > self._total_bytes:
            raise errors.Overloaded


def _counted(size: int) -> int:
    return size if size > SMALL_BYTES else 0


def _as_model(text: bytearray, model: type[Body], absent: object) -> Body:
    if sum(map(text.count, (b",", b"[", b"{"))) > MAX_VALUES:
        raise errors.InvalidRequest(f"The request body has more than {MAX_VALUES} values.")
    try:
        value = orjson.loads(text) if absent is None or text.strip() else absent
    except orjson.JSONDecodeError as error:
        raise errors.InvalidJson from error
    try:
        return model.model_validate(value)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False, include_context=False)
        raise shape_error(problems, "body") from error


def shape_error(problems: Sequence[Mapping[str, Any]], *where: str) -> errors.ValidationFailed:
    """Return the 422 for pydantic's problems; ``where`` begins each location.

    The offending input stays out of it: it may be a whole document as a data URI.
    """
    items = [
        {"loc": [*where, *item["loc"]], "msg": item["msg"], "type": item["type"]}
        for item in problems
    ]
    path = [str(part) for part in items[0]["loc"] if part not in {"body", "query", "path"}]
    field = ".".join(path) or None
    message = f"{field}: {items[0]['msg']}" if field else str(items[0]["msg"])
    return errors.ValidationFailed(message, param=field, items=items)
