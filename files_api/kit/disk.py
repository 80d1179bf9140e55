"""Folders that survive a power cut: a new name is durable once its folder was synced."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folders(folder: Path, within: Path | None = None) -> None:
    """Make a folder and its missing parents, for our eyes only (0700), and durably.

    Args:
        folder: what is to be there.
        within: a folder above, which is not made; None makes all parents.

    Raises:
        FileNotFoundError: the folder ``within`` is missing.
        OSError: a folder cannot be made.
    """
    missing = []
    while folder != within and not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for path in reversed(missing):
        path.mkdir(mode=0o700, exist_ok=True)
        with suppress(PermissionError):  # a parent that is not ours may be closed to us
            sync_folder(path.parent)


def write_private(path: Path, data: bytes) -> None:
    """Write a file for our eyes only (0600), durably; nobody ever sees a part of it.

    Raises:
        FileExistsError: the file is there already.
        OSError: it cannot be written.
    """
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)
    finally:
        temporary.unlink()
    sync_folder(path.parent)
