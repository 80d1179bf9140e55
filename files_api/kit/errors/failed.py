"""The statuses from 500 on: what went wrong on this side."""

from __future__ import annotations

from math import ceil

from files_api.kit.errors.base import LONGEST_RETRY_SECONDS, AppError


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

    def __init__(
        self, message: str | None = None, *, param: str | None = None, seconds: float | None = None
    ) -> None:
        """Take the seconds after which another try may work; None: as the class says."""
        super().__init__(message, param=param)
        if seconds is not None:
            self.retry_after = min(LONGEST_RETRY_SECONDS, max(1, ceil(seconds)))


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


class DeadlineExceeded(AppError):
    """The request took longer than it was given; pages that were read are kept for another try."""

    status = 504
    code = "deadline_exceeded"


class StorageFull(AppError):
    """The store for files is full."""

    status = 507
    code = "storage_full"
    retry_after = 60
