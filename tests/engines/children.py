"""Entries of children that fail on purpose."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from ocr_api.processes import Refusal

Answer = tuple[dict[str, Any], bytes]


def dies(header: dict[str, Any], payload: bytes) -> Answer:
    os._exit(3)


def is_killed(header: dict[str, Any], payload: bytes) -> Answer:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def dies_once(header: dict[str, Any], payload: bytes) -> Answer:
    try:
        Path(payload.decode()).touch(exist_ok=False)
    except FileExistsError:
        return {}, json.dumps([["a line", [0.1, 0.2, 0.3, 0.25], 0.9876]]).encode()
    os._exit(3)


def sleeps(header: dict[str, Any], payload: bytes) -> Answer:
    time.sleep(60)
    return {}, b"[]"


def eats(header: dict[str, Any], payload: bytes) -> Answer:
    return {}, bytes(1 << 40)


def has_no_models(header: dict[str, Any], payload: bytes) -> Answer:
    raise Refusal("no_models", "FileNotFoundError: the recogniser")


def lies(header: dict[str, Any], payload: bytes) -> Answer:
    return {}, b'[["a", [0, 0, 1, 1], "certain"]]'


def answers_late(header: dict[str, Any], payload: bytes) -> Answer:
    time.sleep(0.5)
    return {}, json.dumps([["a line", [0.1, 0.2, 0.3, 0.25], 0.9876]]).encode()
