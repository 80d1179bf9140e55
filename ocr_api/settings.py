"""What the OCR service adds to the settings of the files service.

Read in `app` and `cli` only, and handed down as values; importing a module reads nothing.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal, get_args

import orjson
from pydantic import Field, SecretStr, field_validator
from pydantic_settings import NoDecode

from files_api.settings import FilesSettings
from model_registry.routing import BaseUrl

MIB = 1024 * 1024
Role = Literal["all", "files", "ocr"]
ROLES: tuple[Role, ...] = get_args(Role)
_ENGINE_PROCESS_BYTES = 1536 * MIB  # what one rapidocr process holds at its worst, rounded up
_URLS_SHAPE = 'must be a JSON object such as {"zai-org/GLM-OCR": "http://host:8000/v1"}'


def configs() -> Path:
    """Return the folder of cards and routes: in the wheel inside a package, else in the clone."""
    root = Path(__file__).resolve().parents[1]
    packed = root / "model_registry" / "configs"
    return packed if packed.is_dir() else root / "configs"


class Settings(FilesSettings):
    """All settings of the service; each is an environment variable with the prefix ``RECTO_``."""

    role: Role = "all"
    """What this process serves: everything, the files API alone, or the OCR APIs alone."""
    models_dir: Path = Field(default_factory=lambda: configs() / "models")
    """Folder of model cards, one YAML file each."""
    routes: Path = Field(default_factory=lambda: configs() / "routes.yaml")
    """File of public model names, their targets and weights."""
    show_hidden_models: bool = False
    """Serve the cards marked hidden: the fake engine `echo`, for tests and smoke tests."""
    doors: Annotated[tuple[str, ...], NoDecode] = ()
    """APIs to serve, by file name and separated by commas; empty means all of them."""
    max_inline_bytes: Annotated[int, Field(ge=1024)] = 64 * MIB
    """Most bytes of a document that travels inside a request, before base64."""
    max_answer_bytes: Annotated[int, Field(ge=1024)] = 256 * MIB
    """Most bytes of one OCR answer; pictures make it long."""
    max_answers_bytes: Annotated[int, Field(ge=1024)] = 384 * MIB
    """Most bytes of whole OCR answers in memory at a time, in each API process; one organisation
    has half, or one answer of full length. Answers that are streamed take none."""
    max_pages: Annotated[int, Field(ge=1, le=100_000)] = 1000
    """Most pages that one request may read."""
    max_requests: Annotated[int, Field(ge=1, le=100_000)] = 1000
    """Most OCR requests under way or waiting at a time; further ones are refused with 503."""
    org_requests: Annotated[int, Field(ge=1, le=100_000)] = 500
    """The same of one organisation; further ones are refused with 429."""
    max_queued_pages: Annotated[int, Field(ge=1)] = 50_000
    """Pages that wait or are being read, beyond which no further document is taken (503)."""
    org_queued_pages: Annotated[int, Field(ge=1)] = 20_000
    """The same of one organisation (429)."""
    request_seconds: Annotated[float, Field(gt=0, le=86_400)] = 3600.0
    """Longest time of an OCR request; its header X-Request-Timeout may ask for less."""
    drain_seconds: Annotated[int, Field(ge=0, le=3600)] = 30
    """Seconds that requests under way have to end when the server is told to stop; those that
    are left are answered with 503. What runs the server must wait some seconds longer."""
    ledger_hours: Annotated[float, Field(ge=0, le=8784)] = 24.0
    """Hours that pages which were read are kept, so that a repeated request pays only for what is
    missing; 0 keeps none."""
    max_pixels: Annotated[int, Field(ge=1_000_000)] = 120_000_000
    """Most pixels of an image, or of one frame of it, that is decoded."""
    render_processes: Annotated[int, Field(ge=0, le=512)] = 0
    """Processes that draw pages; 0 means one per core."""
    render_seconds: Annotated[float, Field(gt=0, le=600)] = 10.0
    """Seconds that drawing one page may take before its process is killed."""
    render_memory_mib: Annotated[int, Field(ge=256)] = 2048
    """Address space of a drawing process, in MiB."""
    engine_processes: Annotated[int, Field(ge=0, le=512)] = 0
    """Processes of the CPU engine; 0 means one per core, as many as memory allows."""
    engine_urls: Annotated[dict[str, tuple[BaseUrl, ...]], NoDecode] = Field(default_factory=dict)
    """Servers that run models: a JSON object of base URLs by card id or alias, one or a list; such
    a card needs no route."""
    engine_api_key: SecretStr | None = None
    """Key that is sent to those servers, and to the ones in routes; empty means none."""
    vllm_bin: Path | None = None
    """The `vllm` program of `--with-vllm`; empty means the one of `make vllm`, or on the PATH."""
    fetch_seconds: Annotated[float, Field(gt=0, le=600)] = 30.0
    """Seconds that fetching a document URL may take in all."""
    fetch_allow: Annotated[tuple[str, ...], NoDecode] = ()
    """Hosts (or host:port) that may be fetched although not public, separated by commas."""

    traces: bool = False
    """Record what each request does as OpenTelemetry spans and export them over OTLP/HTTP; needs
    the extra `otel`. The standard variables OTEL_* say where to and how many."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least level of the log lines on standard error."""

    @field_validator("engine_urls", mode="before")
    @classmethod
    def _read_urls(cls, value: object) -> object:
        # Read here, and not by pydantic-settings, whose error is of another kind than all others.
        if isinstance(value, str):
            try:
                value = orjson.loads(value)
            except ValueError:
                raise ValueError(_URLS_SHAPE) from None
        if not isinstance(value, dict):
            raise ValueError(_URLS_SHAPE)  # noqa: TRY004 - pydantic reports no TypeError
        # An address in the wrong place must not be shown, since it may hold a password.
        if any("://" in name or "@" in name or not name.isprintable() for name in value):
            raise ValueError(_URLS_SHAPE)
        return {name: _listed(name, urls) for name, urls in value.items()}

    @field_validator("doors", "fetch_allow", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @property
    def max_json_bytes(self) -> int:
        """Return the longest JSON body: an inline document in base64, and its envelope."""
        return self.max_inline_bytes * 4 // 3 + MIB

    def count_render_processes(self) -> int:
        """Return how many processes draw pages."""
        return self.render_processes or cores()

    def count_engine_processes(self) -> int:
        """Return how many processes run an embedded engine."""
        if self.engine_processes:
            return self.engine_processes
        return max(1, min(cores(), _memory_bytes() // _ENGINE_PROCESS_BYTES))


def _listed(name: str, urls: object) -> list[object]:
    """Return one address, or a list of them, as a list."""
    if isinstance(urls, str):
        return [urls]
    if not isinstance(urls, (list, tuple)) or not all(isinstance(url, str) for url in urls):
        raise ValueError(f"{name} needs an address, or a list of them")
    if not urls:
        raise ValueError(f"{name} has an empty list; give it an address, or leave it out")
    return [*urls]


def cores() -> int:
    """Return the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
