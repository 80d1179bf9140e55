"""What the OCR service adds to the settings of the files service.

Read in `app` and `cli` only, and handed down as values; importing a module reads nothing.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import NoDecode

from files_api.settings import FilesSettings

MIB = 1024 * 1024
_ENGINE_PROCESS_BYTES = 1536 * MIB  # what one rapidocr process holds at its worst, rounded up


def configs() -> Path:
    """Return the folder of cards and routes: in the wheel inside a package, else in the clone."""
    root = Path(__file__).resolve().parents[1]
    packed = root / "model_registry" / "configs"
    return packed if packed.is_dir() else root / "configs"


class Settings(FilesSettings):
    """All settings of the service; each is an environment variable with the prefix ``RECTO_``."""

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
    max_pages: Annotated[int, Field(ge=1, le=100_000)] = 1000
    """Most pages that one request may read."""
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
    engine_urls: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Servers that run models: a JSON object of base URLs by card id, one or a list; such a card
    needs no route."""
    engine_api_key: SecretStr | None = None
    """Key that is sent to those servers, and to the ones in routes; empty means none."""
    vllm_bin: Path | None = None
    """The `vllm` program of `--with-vllm`; empty means the one of `make vllm`, or on the PATH."""
    fetch_seconds: Annotated[float, Field(gt=0, le=600)] = 30.0
    """Seconds that fetching a document URL may take in all."""
    fetch_allow: Annotated[tuple[str, ...], NoDecode] = ()
    """Hosts (or host:port) that may be fetched although not public, separated by commas."""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least level of the log lines on standard error."""

    @field_validator("engine_urls", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        return {name: (url,) if isinstance(url, str) else url for name, url in value.items()}

    @field_validator("engine_urls")
    @classmethod
    def _check_urls(cls, value: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for name, urls in value.items():
            parts = [urlsplit(url) for url in urls]
            if not urls or not all(one.scheme in {"http", "https"} and one.netloc for one in parts):
                raise ValueError(f"{name} needs addresses such as http://host:8000/v1")
        return {name: tuple(url.rstrip("/") for url in urls) for name, urls in value.items()}

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


def cores() -> int:
    """Return the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
