"""Every error a client can see: one class each, the docstring is the default message.

The tree, with the HTTP status of each:

    AppError
    ├── InvalidRequest 400
    │   ├── InvalidJson, MissingDocument, InvalidFileId, InvalidBase64, InvalidLink
    │   ├── UnsupportedFormat, DocumentEmpty, DocumentDamaged, DocumentEncrypted
    │   ├── TooManyPages, PagesOutOfRange, ImageTooLarge, DocumentTooComplex
    │   ├── ModelUnknown, ModelUnavailable, AnnotationUnsupported
    │   ├── ContextTooLong, AnswerTooLarge
    │   ├── UploadClosed, UploadIncomplete
    │   └── FetchRefused, FetchFailed
    ├── Unauthorized 401
    ├── Forbidden 403
    │   └── LinkForbidden, CallerRefused, ScopeMissing, OrganisationRefused, QuotaExceeded
    ├── NotFound 404 ── FileNotFound, UploadNotFound, ModelNotFound
    ├── MethodNotAllowed 405
    ├── BodyTimeout 408
    ├── IdempotencyKeyBusy 409
    ├── TooLarge 413
    ├── RangeUnsatisfiable 416
    ├── ValidationFailed 422 ── SchemaRefused, IdempotencyKeyReused
    ├── RateLimited 429
    ├── InternalError 500 ── PageFailed, AnnotationFailed
    ├── Unavailable 503 ── StorageUnavailable, Overloaded, EngineUnavailable ── EngineBusy
    ├── EngineTimeout 504
    ├── DeadlineExceeded 504
    └── StorageFull 507

Why: the class is the whole error. A door chooses only the JSON shape.
"""

from __future__ import annotations

from files_api.kit.errors.base import (
    LONGEST_RETRY_SECONDS,
    AppError,
)
from files_api.kit.errors.failed import (
    AnnotationFailed,
    DeadlineExceeded,
    EngineBusy,
    EngineTimeout,
    EngineUnavailable,
    InternalError,
    Overloaded,
    PageFailed,
    StorageFull,
    StorageUnavailable,
    Unavailable,
)
from files_api.kit.errors.invalid import (
    AnnotationUnsupported,
    AnswerTooLarge,
    ContextTooLong,
    DocumentDamaged,
    DocumentEmpty,
    DocumentEncrypted,
    DocumentTooComplex,
    FetchFailed,
    FetchRefused,
    ImageTooLarge,
    InvalidBase64,
    InvalidFileId,
    InvalidJson,
    InvalidLink,
    InvalidRequest,
    MissingDocument,
    ModelUnavailable,
    ModelUnknown,
    PagesOutOfRange,
    TooManyPages,
    UnsupportedFormat,
    UploadClosed,
    UploadIncomplete,
)
from files_api.kit.errors.refused import (
    BodyTimeout,
    CallerRefused,
    FileNotFound,
    Forbidden,
    IdempotencyKeyBusy,
    IdempotencyKeyReused,
    LinkForbidden,
    MethodNotAllowed,
    ModelNotFound,
    NotFound,
    OrganisationRefused,
    QuotaExceeded,
    RangeUnsatisfiable,
    RateLimited,
    SchemaRefused,
    ScopeMissing,
    TooLarge,
    Unauthorized,
    UploadNotFound,
    ValidationFailed,
)

__all__ = [
    "LONGEST_RETRY_SECONDS",
    "AnnotationFailed",
    "AnnotationUnsupported",
    "AnswerTooLarge",
    "AppError",
    "BodyTimeout",
    "CallerRefused",
    "ContextTooLong",
    "DeadlineExceeded",
    "DocumentDamaged",
    "DocumentEmpty",
    "DocumentEncrypted",
    "DocumentTooComplex",
    "EngineBusy",
    "EngineTimeout",
    "EngineUnavailable",
    "FetchFailed",
    "FetchRefused",
    "FileNotFound",
    "Forbidden",
    "IdempotencyKeyBusy",
    "IdempotencyKeyReused",
    "ImageTooLarge",
    "InternalError",
    "InvalidBase64",
    "InvalidFileId",
    "InvalidJson",
    "InvalidLink",
    "InvalidRequest",
    "LinkForbidden",
    "MethodNotAllowed",
    "MissingDocument",
    "ModelNotFound",
    "ModelUnavailable",
    "ModelUnknown",
    "NotFound",
    "OrganisationRefused",
    "Overloaded",
    "PageFailed",
    "PagesOutOfRange",
    "QuotaExceeded",
    "RangeUnsatisfiable",
    "RateLimited",
    "SchemaRefused",
    "ScopeMissing",
    "StorageFull",
    "StorageUnavailable",
    "TooLarge",
    "TooManyPages",
    "Unauthorized",
    "Unavailable",
    "UnsupportedFormat",
    "UploadClosed",
    "UploadIncomplete",
    "UploadNotFound",
    "ValidationFailed",
    "every_error",
]


def every_error() -> list[type[AppError]]:
    """Return all error classes, base first, in the order they are declared."""
    found: list[type[AppError]] = []
    waiting: list[type[AppError]] = [AppError]
    while waiting:
        cls = waiting.pop(0)
        found.append(cls)
        waiting.extend(cls.__subclasses__())
    return found
