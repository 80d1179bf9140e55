"""``Idempotency-Key`` on a route: the claim around the work, and the answer that is repeated."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

from fastapi import Request, Response
from pydantic import BaseModel

from files_api.accounts import Principal
from files_api.idempotency import Claim, Idempotency
from files_api.kit.errors import (
    AppError,
    IdempotencyKeyBusy,
    IdempotencyKeyReused,
    ValidationFailed,
)

_HEADER = "Idempotency-Key"
_KEY = re.compile(r"[ -~]{1,255}")
_MOST_ROUTE = 200

PARAMETER: dict[str, Any] = {
    "name": _HEADER,
    "in": "header",
    "required": False,
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]*$"},
    "description": "Made up by the client, one for each thing to be done: a request that is sent "
    "again with it within 24 hours does nothing more and is answered the same.",
}
"""What OpenAPI says about the header."""

ERRORS: tuple[type[AppError], ...] = (IdempotencyKeyBusy, IdempotencyKeyReused)
"""What a route with the header answers beside its own errors."""


@asynccontextmanager
async def claimed(request: Request, principal: Principal) -> AsyncIterator[Claim | None]:
    """Claim the request's key while the block runs; None when it has none.

    In the block, a claim with an answer belongs to a request that was answered before: give it
    to `repeated`. Else do the work, with ``claim.finish(fingerprint, answer)`` in its unit. When
    the block fails, the key may be used again.

    Raises:
        IdempotencyKeyBusy: a request with this key is being worked on.
        ValidationFailed: the header is no key.
    """
    key = _key_of(request)
    if key is None:
        yield None
        return
    idempotency: Idempotency = request.app.state.idempotency
    claim = await idempotency.claim(principal, _route_of(request), key)
    try:
        yield claim
    except BaseException:
        await claim.release()
        raise


def repeated(claim: Claim, fingerprint: str) -> Response:
    """Return the answer to the first request with the key of a claim.

    Raises:
        IdempotencyKeyReused: that one asked for something else.
    """
    claim.check(fingerprint)
    response = json_response(claim.answer or "")
    response.headers["Idempotent-Replayed"] = "true"
    return response


def json_text(answer: BaseModel) -> str:
    """Return the JSON of an answer, as it is sent and remembered."""
    return answer.model_dump_json()


def json_response(text: str) -> Response:
    """Return the response with a JSON text."""
    return Response(text, media_type="application/json")


def _key_of(request: Request) -> str | None:
    keys = request.headers.getlist(_HEADER)
    if not keys:
        return None
    if len(keys) > 1 or not _KEY.fullmatch(keys[0]):
        raise ValidationFailed(
            f"{_HEADER}: must be 1 to 255 printable ASCII characters.",
            items=[
                {
                    "loc": ["header", _HEADER],
                    "msg": "must be 1 to 255 printable ASCII characters",
                    "type": "value_error",
                }
            ],
            param=_HEADER,
        )
    return keys[0]


def _route_of(request: Request) -> str:
    # Quoted, because a path may hold what a database does not take.
    return f"{request.method} {quote(request.scope['path'])}"[:_MOST_ROUTE]
