"""JSON bodies, read under bounds: of one, of its values, of an owner's and of all at once.

Why: a document may travel inside a request, so a body may be large; but a large body must be one
long string. Fifteen megabytes of `[[],[],…` would become two gigabytes of Python lists.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Generic, TypeVar

import orjson
from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect

from files_api.kit import errors
from files_api.kit.room import Hold, Room

Body = TypeVar("Body", bound=BaseModel)
Held_co = TypeVar("Held_co", bound=BaseModel, covariant=True)

MAX_VALUES = 100_000
"""Most commas and opening brackets in a body, an upper bound of its values; base64 has none."""

_REFUSAL = (
    "The organisation has too many large bodies at once; try again, or upload large documents "
    "with POST /v1/files."
)
SMALL_BYTES = 64 * 1024
"""Bodies up to this size are not counted: large ones must not keep everybody out."""


class ClientGoneError(Exception):
    """The client closed the connection before the answer was ready."""


class HeldBody(Generic[Held_co]):
    """A body that counts as held until it is let go of, early or at its block's end."""

    def __init__(self, body: Held_co, let_go: Callable[[], None]) -> None:
        """Take the body, and what no longer counts it."""
        self._body: Held_co | None = body
        self._let_go = let_go

    @property
    def body(self) -> Held_co:
        """The body; whoever keeps it, or a string of it, must not release it.

        Raises:
            RuntimeError: it was released.
        """
        if self._body is None:
            raise RuntimeError("the body was released")
        return self._body

    def release(self) -> None:
        """Forget the body and count it no more; a second time does nothing."""
        if self._body is not None:
            self._body = None
            self._let_go()


class JsonBodies:
    """Reads the JSON bodies of one process."""

    def __init__(self, max_bytes: int, total_bytes: int) -> None:
        """Take the most bytes of one body, and of all that are held at the same time.

        One owner holds half of all at most, so that nobody alone keeps the others out; but
        always one body of full length.
        """
        self._max_bytes = max_bytes
        self.room = Room("bodies", total_bytes, max_bytes, refusal=_REFUSAL)

    @asynccontextmanager
    async def read(
        self, request: Request, model: type[Body], absent: object = None, *, owner: str
    ) -> AsyncIterator[Body]:
        """Give the body as a model, held until the block ends: `hold`, for short blocks."""
        async with self.hold(request, model, absent, owner=owner) as held:
            yield held.body

    @asynccontextmanager
    async def hold(
        self, request: Request, model: type[Body], absent: object = None, *, owner: str
    ) -> AsyncIterator[HeldBody[Body]]:
        """Give the body as a model, whatever content type the client declared.

        Its bytes count as held until it is released or the block ends, because the model holds
        its strings.

        Args:
            request: the request; its body must not have been read.
            model: the shape.
            absent: what an empty body means; None makes it an error.
            owner: whose body it is: the id of the caller's organisation.

        Raises:
            TooLarge: the body is longer; counted as it comes, never trusted from a header.
            RateLimited: the bodies of this owner together would be more than its share.
            Overloaded: all bodies together would be too long.
            BodyTimeout: the body came too slowly (`files_api.kit.patience`).
            InvalidJson: it is not JSON, or empty.
            InvalidRequest: it has too many values.
            ValidationFailed: it is JSON of another shape; the message names the field.
            ClientGoneError: the client left before its end.
        """
        with self.room.hold(owner) as room:
            text = await self._receive(request, room)
            held = HeldBody(_as_model(text, model, absent), room.release)
            del text
            try:
                yield held
            finally:
                held.release()

    async def _receive(self, request: Request, room: Hold) -> bytearray:
        text = bytearray()
        try:
            async for chunk in request.stream():
                size = len(text) + len(chunk)
                self._check_size(size)
                room.take(_counted(size) - _counted(len(text)))
                text += chunk
        except ClientDisconnect as error:
            raise ClientGoneError from error
        return text

    def _check_size(self, size: int) -> None:
        if size > self._max_bytes:
            raise errors.TooLarge(
                f"The request body is longer than {self._max_bytes} bytes. "
                "Upload large documents with POST /v1/files."
            )


def _counted(size: int) -> int:
    return size if size > SMALL_BYTES else 0


def _as_model(text: bytearray, model: type[Body], absent: object) -> Body:
    if _has_too_many_values(text):
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


def _has_too_many_values(text: bytearray) -> bool:
    """Tell whether there are too many marks of values; found one by one, for there are few."""
    found = 0
    for mark in (b",", b"[", b"{"):
        at = text.find(mark)
        while at >= 0:
            found += 1
            if found > MAX_VALUES:
                return True
            at = text.find(mark, at + 1)
    return False


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
