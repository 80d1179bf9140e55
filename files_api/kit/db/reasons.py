"""Why a database cannot be used, in words for the operator who typed its URL."""

from __future__ import annotations

_REASONS = {
    "InvalidPasswordError": "it refuses the user or the password",
    "InvalidAuthorizationSpecificationError": "it refuses the user or the password",
    "InvalidCatalogNameError": "it has no database of this name",
    "gaierror": "its host is not known; @ : / in a password are written %40 %3A %2F",
    "ConnectionRefusedError": "nothing listens there",
    "ConnectionError": "no connection, perhaps for want of TLS on one side (sslmode)",
    "TimeoutError": "no answer in time",
}


def explain(error: BaseException) -> str:
    """Return the reason behind an error, or the kind of what is behind it.

    Never the text of an exception: a driver's may quote the URL, and so the password.
    """
    behind: BaseException | None = error
    while behind:
        kind = type(behind).__name__
        if kind in _REASONS:
            return _REASONS[kind]
        behind = behind.__cause__
    return kind
