"""The connection to an S3 store: how long we wait, how often we try, and its errors as ours."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import S3Store

from files_api.blobs import BlobExists, BlobMissing
from files_api.blobs.s3.place import Place
from files_api.kit.errors import StorageFull, StorageUnavailable

if TYPE_CHECKING:
    from obstore.store import BackoffConfig, ClientConfig, RetryConfig

PART = 8 * 1024 * 1024
"""Bytes in a part. A multipart upload has 10,000 at most (Amazon S3 limits), so 80 GB will do."""
PARTS_IN_FLIGHT = 4
ANSWER_SECONDS = 10.0
"""Longest wait for an answer, all tries together; an answer to many bytes may take longer."""
_SLOWEST = PART / 20
"""Bytes per second that a working connection carries at least."""
_LONGEST_SECONDS = 600.0
"""For one request in which bytes flow. Amazon takes minutes to end a large multipart upload, and
sends a space now and then meanwhile (CompleteMultipartUpload in its reference)."""
_RETRIES = 3

_CODE = re.compile(r"<Code>(\w{1,64})</Code>")
_STATUS = re.compile(r"status code: (\d{3})")
# Of Ceph, MinIO's disks and MinIO's quotas; 507 is Insufficient Storage (RFC 4918, 11.5).
_FULL = frozenset({"QuotaExceeded", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "507"})
_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
ERRORS = (BaseError, OSError)


def connect(place: Place) -> S3Store:
    """Return the store at a place; nothing is asked of it yet.

    Raises:
        ValueError: obstore cannot use the bucket, the endpoint or a variable of its own.
    """
    config: dict[str, Any] = {
        "virtual_hosted_style_request": place.virtual,
        # The multi-delete request is unknown to some stores, and one is all we delete.
        "disable_bulk_delete": True,
    }
    if place.region:
        config["region"] = place.region
    if place.endpoint:
        # The second name, too: its variable would have precedence over the first.
        config["endpoint"] = config["aws_endpoint_url_s3"] = place.endpoint
    client: ClientConfig = {
        "allow_http": place.endpoint.startswith("http:"),
        "connect_timeout": timedelta(seconds=ANSWER_SECONDS / 3),
        "read_timeout": timedelta(seconds=ANSWER_SECONDS + PART / _SLOWEST),
        "timeout": timedelta(seconds=_LONGEST_SECONDS),
    }
    backoff: BackoffConfig = {
        "init_backoff": timedelta(milliseconds=100),
        "max_backoff": timedelta(seconds=1),
    }
    retries: RetryConfig = {
        "max_retries": _RETRIES,
        "retry_timeout": timedelta(seconds=ANSWER_SECONDS),
        "backoff": backoff,
    }
    try:
        return S3Store(
            place.bucket,
            prefix=place.prefix or None,
            config=config,  # type: ignore[arg-type] # a TypedDict, made key by key
            client_options=client,
            retry_config=retries,
        )
    except BaseError as error:
        raise ValueError(f"obstore cannot use this ({type(error).__name__})") from error


def seconds_for(data: bytes) -> float:
    """Return how long an answer to so many bytes may take."""
    return ANSWER_SECONDS + len(data) / _SLOWEST


def code_of(error: BaseException | None) -> str:
    """Return the S3 error code that an error of obstore tells of, or nothing."""
    found = _CODE.search(str(error))
    return found[1] if found else ""


def status_of(error: BaseException | None) -> str:
    """Return the HTTP status that an error of obstore tells of, or nothing."""
    found = _STATUS.search(str(error))
    return found[1] if found else ""


@contextmanager
def as_app_errors(key: str | None = None) -> Iterator[None]:
    """Translate what goes wrong; with a ``key``, a missing object is a missing blob."""
    try:
        yield
    except AlreadyExistsError as error:
        raise BlobExists(key) from error
    except ERRORS as error:
        code = code_of(error)
        if isinstance(error, FileNotFoundError) and key and code != "NoSuchBucket":
            raise BlobMissing(key) from None
        full = {code, status_of(error)} & _FULL or getattr(error, "errno", None) in _DISK_FULL
        raise (StorageFull if full else StorageUnavailable) from error
