"""Says once that the database does not answer, and once that it does again."""

from __future__ import annotations

from logging import WARNING

from files_api.kit.errors import AppError
from files_api.kit.observe import log


class Outage:
    """Whether the ledger's last try failed."""

    def __init__(self) -> None:
        self._lasts = False

    def note(self, error: AppError) -> None:
        """Tell of a try that failed; the log hears of the first one only."""
        if not self._lasts:
            self._lasts = True
            log(__name__, "ledger_out", level=WARNING, code=error.code, cause=error.cause())

    def over(self) -> None:
        """Tell of a try that went well."""
        if self._lasts:
            self._lasts = False
            log(__name__, "ledger_back")
