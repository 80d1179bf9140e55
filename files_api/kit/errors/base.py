"""What every error is: a status, a code, a sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import cleandoc
from typing import Any, ClassVar

LONGEST_RETRY_SECONDS = 120
"""OpenAI's clients do not retry at all where ``Retry-After`` asks for more."""
_MOST_CAUSES = 8
"""Of an error in its log line; an exception may be its own cause."""


class AppError(Exception):
    """Something went wrong."""

    status: ClassVar[int] = 500
    """HTTP status."""
    code: ClassVar[str] = "internal_error"
    """Stable machine-readable name; never reused for something else."""
    kind: ClassVar[str] = "server_error"
    """The ``type`` of the error body, in OpenAI's vocabulary."""
    retry_after: int | None = None
    """Seconds for the ``Retry-After`` header; at most `LONGEST_RETRY_SECONDS`."""

    def __init__(self, message: str | None = None, *, param: str | None = None) -> None:
        self.message = message or self.default_message()
        self.param = param
        super().__init__(self.message)

    def cause(self) -> str:
        """Return the kinds of the exceptions behind this one, nearest first, for a log line.

        Kinds only: what a driver or a library says may quote a URL, a key or a document.
        """
        kinds, behind = list[str](), self.__cause__
        while behind and len(kinds) < _MOST_CAUSES:
            kinds.append(type(behind).__name__)
            behind = behind.__cause__
        return " < ".join(kinds)

    def headers(self) -> dict[str, str]:
        """Return the headers that belong to the answer."""
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}

    @classmethod
    def default_message(cls) -> str:
        """Return the first paragraph of the docstring, on one line."""
        return " ".join(cleandoc(cls.__doc__ or "").split("\n\n")[0].split())

    def details(self) -> Sequence[Mapping[str, Any]] | None:
        """Return ``{loc, msg, type}`` items for a 422, else None."""
        return None
