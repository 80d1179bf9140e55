"""Every error a client can see: one class each, the docstring is the default message.

The tree, with the HTTP status of each:

    AppError
    ├── InvalidRequest 400
    │   ├── InvalidJson, MissingDocument, InvalidFileId, InvalidBase64, InvalidLink
    │   ├── UnsupportedFormat, DocumentEmpty, DocumentDamaged, DocumentEncrypted
    │   ├── TooManyPages, PagesOutOfRange, ImageTooLarge, DocumentTooComplex
    │   ├── ModelUnknown, ModelUnavailable, AnnotationUnsupported
    │   ├── ContextTooLong, AnswerTooLarge
    │   └── FetchRefused, FetchFailed
    ├── Forbidden 403 ── LinkForbidden, CallerRefused
    ├── NotFound 404 ── FileNotFound, ModelNotFound
    ├── MethodNotAllowed 405
    ├── BodyTimeout 408
    ├── TooLarge 413
    ├── ValidationFailed 422 ── SchemaRefused
    ├── InternalError 500 ── PageFailed, AnnotationFailed
    ├── Unavailable 503 ── StorageUnavailable, Overloaded, EngineUnavailable ── EngineBusy
    ├── EngineTimeout 504
    └── StorageFull 507

Why: the class is the whole error. A door chooses only the JSON shape.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import cleandoc
from typing import Any, ClassVar


class AppError(Exception):
    """Something went wrong."""

    status: ClassVar[int] = 500
    """HTTP status."""
    code: ClassVar[str] = "internal_error"
    """Stable machine-readable name; never reused for something else."""
    kind: ClassVar[str] = "server_error"
    """The ``type`` of the error body, in OpenAI's vocabulary."""
    retry_after: ClassVar[int | None] = None
    """Seconds for the ``Retry-After`` header; at most 120, or clients do not retry."""

    def __init__(self, message: str | None = None, *, param: str | None = None) -> None:
        self.message = message or self.default_message()
        self.param = param
        super().__init__(self.message)

    @classmethod
    def default_message(cls) -> str:
        """Return the first paragraph of the docstring, on one line."""
        return " ".join(cleandoc(cls.__doc__ or "").split("\n\n")[0].split())

    def details(self) -> Sequence[Mapping[str, Any]] | None:
        """Return ``{loc, msg, type}`` items for a 422, else None."""
        return None


class InvalidRequest(AppError):
    """The request cannot be carried out as it stands."""

    status = 400
    code = "invalid_request"
    kind = "invalid_request_error"


class InvalidJson(InvalidRequest):
    """The request body is not valid JSON."""

    code = "invalid_json"


class MissingDocument(InvalidRequest):
    """The request names no document: send document_url, image_url, file_id or document_content."""

    code = "missing_document"


class InvalidFileId(InvalidRequest):
    """A file id is a UUID, as the upload answered it."""

    code = "invalid_file_id"


class InvalidBase64(InvalidRequest):
    """The inline document is not valid base64."""

    code = "invalid_base64"


class InvalidLink(InvalidRequest):
    """The signed URL given as a document is expired, altered, or its file is gone."""

    code = "invalid_signed_url"


class UnsupportedFormat(InvalidRequest):
    """The document is not in a supported format: PDF, PNG, JPEG, WEBP, GIF, BMP, TIFF."""

    code = "unsupported_format"


class DocumentEmpty(InvalidRequest):
    """The document has no bytes or no pages."""

    code = "document_empty"


class DocumentDamaged(InvalidRequest):
    """The document is damaged and cannot be opened."""

    code = "document_damaged"


class DocumentEncrypted(InvalidRequest):
    """The document is protected by a password; remove the protection and send it again."""

    code = "document_encrypted"


class TooManyPages(InvalidRequest):
    """The document has more pages than one request may read; select some with `pages`."""

    code = "too_many_pages"


class PagesOutOfRange(InvalidRequest):
    """None of the requested pages exists in the document."""

    code = "pages_out_of_range"


class ImageTooLarge(InvalidRequest):
    """The image has more pixels than this server decodes."""

    code = "image_too_large"


class DocumentTooComplex(InvalidRequest):
    """A page of the document takes more time or memory to draw than this server allows."""

    code = "document_too_complex"


class ModelUnknown(InvalidRequest):
    """No model of this name exists here."""

    code = "model_not_found"


class ModelUnavailable(InvalidRequest):
    """The model is known here, but no server runs it."""

    code = "model_unavailable"


class AnnotationUnsupported(InvalidRequest):
    """The model cannot annotate documents."""

    code = "annotation_not_supported"


class ContextTooLong(InvalidRequest):
    """The page and its prompt are longer than the model's context: shorten the prompt."""

    code = "context_too_long"


class AnswerTooLarge(InvalidRequest):
    """The answer would be larger than this server sends: select fewer pages, or fewer pictures."""

    code = "answer_too_large"


class FetchRefused(InvalidRequest):
    """The document URL is not allowed: only public http and https addresses are fetched."""

    code = "fetch_refused"


class FetchFailed(InvalidRequest):
    """The document URL could not be fetched."""

    code = "fetch_failed"


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


class NotFound(AppError):
    """There is nothing at this address."""

    status = 404
    code = "not_found"
    kind = "not_found_error"


class FileNotFound(NotFound):
    """No file has this id."""

    code = "file_not_found"


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


class TooLarge(AppError):
    """The upload or document is larger than this server takes."""

    status = 413
    code = "too_large"
    kind = "invalid_request_error"


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


class InternalError(AppError):
    """The server failed; the request id leads to the cause in its log."""


class PageFailed(InternalError):
    """A page could not be read."""

    code = "ocr_failed"


class AnnotationFailed(InternalError):
    """The pages were read, and no valid annotation could be made of them."""

    code = "annotation_failed"


class Unavailable(AppError):
    """The service cannot answer now; try again."""

    status = 503
    code = "unavailable"
    retry_after = 5


class StorageUnavailable(Unavailable):
    """The store for files or the database does not answer; try again."""

    code = "storage_unavailable"


class EngineUnavailable(Unavailable):
    """The engine that runs this model does not answer; try again."""

    code = "engine_unavailable"


class EngineBusy(EngineUnavailable):
    """The engine that runs this model has all the work it takes; try again."""

    code = "engine_busy"


class Overloaded(Unavailable):
    """The server has all the work it can hold; try again."""

    code = "overloaded"


class EngineTimeout(AppError):
    """The engine took longer over a page than its card allows."""

    status = 504
    code = "engine_timeout"
    retry_after = 30


class StorageFull(AppError):
    """The store for files is full."""

    status = 507
    code = "storage_full"
    retry_after = 60


def every_error() -> list[type[AppError]]:
    """Return all error classes, base first, in the order they are declared."""
    found: list[type[AppError]] = []
    waiting: list[type[AppError]] = [AppError]
    while waiting:
        cls = waiting.pop(0)
        found.append(cls)
        waiting.extend(cls.__subclasses__())
    return found
