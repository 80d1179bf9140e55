"""The statuses 401 to 429: who asks, for what, how much, how often."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

from files_api.kit.errors.base import LONGEST_RETRY_SECONDS, AppError


class Unauthorized(AppError):
    """The API key is missing, unknown, expired or revoked."""

    status = 401
    code = "invalid_api_key"
    kind = "authentication_error"

    def headers(self) -> dict[str, str]:
        """Return the challenge that RFC 9110 (11.6.1) wants with every 401."""
        return {**super().headers(), "WWW-Authenticate": "Bearer"}


class Forbidden(AppError):
    """The caller may not do this."""

    status = 403
    code = "forbidden"
    kind = "permission_error"


class LinkForbidden(Forbidden):
    """The signed URL is expired or its signature does not fit."""

    code = "invalid_signature"


class CallerRefused(Forbidden):
    """Without API keys only this machine is served; name a proxy's address in RECTO_PUBLIC_URL."""

    code = "caller_refused"


class ScopeMissing(Forbidden):
    """The API key may not do this: it lacks a scope."""

    code = "missing_scope"


class OrganisationRefused(Forbidden):
    """The request names another organisation than the API key's."""

    code = "organisation_mismatch"


class QuotaExceeded(Forbidden):
    """The organisation has stored all that it may: delete files, or have its quota raised."""

    code = "quota_exceeded"


class NotFound(AppError):
    """There is nothing at this address."""

    status = 404
    code = "not_found"
    kind = "not_found_error"


class FileNotFound(NotFound):
    """No file has this id."""

    code = "file_not_found"


class UploadNotFound(NotFound):
    """No upload has this id."""

    code = "upload_not_found"


class ModelNotFound(NotFound):
    """No model has this id."""

    code = "model_not_found"


class MethodNotAllowed(AppError):
    """This address does not take this HTTP method."""

    status = 405
    code = "method_not_allowed"
    kind = "invalid_request_error"


class BodyTimeout(AppError):
    """The request body stopped coming; send it again."""

    status = 408
    code = "body_timeout"
    kind = "invalid_request_error"


class IdempotencyKeyBusy(AppError):
    """A request with this Idempotency-Key is still being worked on."""

    status = 409
    code = "idempotency_key_in_use"
    kind = "invalid_request_error"
    retry_after = 1


class TooLarge(AppError):
    """The upload or document is larger than this server takes."""

    status = 413
    code = "too_large"
    kind = "invalid_request_error"


class RangeUnsatisfiable(AppError):
    """The file has no bytes in this range."""

    status = 416
    code = "range_not_satisfiable"
    kind = "invalid_request_error"

    def __init__(
        self, message: str | None = None, *, param: str | None = None, size: int = 0
    ) -> None:
        super().__init__(message, param=param)
        self.size = size

    def headers(self) -> dict[str, str]:
        """Return the true size (RFC 9110, 14.4)."""
        return {**super().headers(), "Content-Range": f"bytes */{self.size}"}


class ValidationFailed(AppError):
    """A field of the request has a wrong type or value."""

    status = 422
    code = "validation_error"
    kind = "invalid_request_error"

    def __init__(
        self,
        message: str | None = None,
        *,
        param: str | None = None,
        items: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        super().__init__(message, param=param)
        self.items = items

    def details(self) -> Sequence[Mapping[str, Any]]:
        """Return the items, or one made from the message: clients refuse a 422 without a list."""
        loc = ["body", *self.param.split(".")] if self.param else ["body"]
        return self.items or [{"loc": loc, "msg": self.message, "type": "value_error"}]


class SchemaRefused(ValidationFailed):
    """The annotation schema is not one that an answer can be held to."""

    code = "schema_refused"


class IdempotencyKeyReused(ValidationFailed):
    """This Idempotency-Key was used for another request."""

    code = "idempotency_key_reused"


class RateLimited(AppError):
    """The organisation has used up its rate; try again."""

    status = 429
    code = "rate_limit_exceeded"
    kind = "rate_limit_error"
    retry_after = 1

    def __init__(
        self, message: str | None = None, *, param: str | None = None, seconds: float = 1.0
    ) -> None:
        super().__init__(message, param=param)
        self.retry_after = min(LONGEST_RETRY_SECONDS, max(1, ceil(seconds)))
