"""Log lines and the request id.

One JSON line per event on standard error: time, level, event, request id, trace id, and facts. No
file names, URLs with a query, prompts or document text: they are our users' secrets. Libraries know
no such rule (a database driver's debug lines hold the values of a query), so they only warn.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from uuid_utils import uuid7

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""The id of the request that is being answered, or empty."""
trace_id: ContextVar[str] = ContextVar("trace_id", default="")
"""The trace that it belongs to (`files_api.kit.traces`), or empty."""

OURS = ("recto", "model_registry", "files_api", "ocr_api")
"""The first parts of our loggers' names."""

_SAFE_ID = re.compile(r"[A-Za-z0-9._\-]{1,128}")


def choose_request_id(offered: str | None) -> str:
    """Return the client's id when it is at most 128 safe characters, else a new UUIDv7."""
    return offered if offered and _SAFE_ID.fullmatch(offered) else str(uuid7())


class JsonLines(logging.Formatter):
    """Writes a record as one line of JSON; facts come in ``extra={"facts": {...}}``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, Any] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        if current := request_id.get():
            line["request_id"] = current
        if trace := trace_id.get():
            line["trace_id"] = trace
        line.update(getattr(record, "facts", {}))
        if record.exc_info and record.exc_info[0]:
            line["error"] = record.exc_info[0].__name__
            line["trace"] = self._frames(record)
        return json.dumps(line, ensure_ascii=False)

    @staticmethod
    def _frames(record: logging.LogRecord) -> list[str]:
        """Return where it happened, without the exception's text, which may quote a document."""
        frames = []
        trace = record.exc_info[2] if record.exc_info else None
        while trace:
            code = trace.tb_frame.f_code
            frames.append(f"{code.co_filename}:{trace.tb_lineno} {code.co_name}")
            trace = trace.tb_next
        return frames[-12:]


def set_up_logs(level: str = "INFO") -> None:
    """Send all logs to standard error as JSON lines.

    Args:
        level: from which level on our own parts write; all others from WARNING on at the least.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    handler.addFilter(_is_for_our_log)
    others = max(logging.WARNING, logging.getLevelNamesMapping()[level])
    logging.basicConfig(level=others, handlers=[handler], force=True)
    for name in OURS:
        logging.getLogger(name).setLevel(level)
    # It warns of a stranger's header, with the header's text.
    logging.getLogger("opentelemetry.trace.span").setLevel(logging.ERROR)


def _is_for_our_log(record: logging.LogRecord) -> bool:
    """Keep out what a library writes below WARNING, even where it set its own level."""
    return record.levelno >= logging.WARNING or record.name.split(".")[0] in OURS


def log(name: str, event: str, *, level: int = logging.INFO, **facts: object) -> None:
    """Write one event of the part of the house called ``name``, with its facts."""
    logging.getLogger(name).log(level, event, extra={"facts": facts})
