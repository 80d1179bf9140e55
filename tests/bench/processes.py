"""CPU and memory of processes, from /proc."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")
_SAMPLE_SECONDS = 0.05


def cpu_seconds(pid: int) -> float:
    """Return user and system time of a process, without its children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


def children(pid: int) -> list[int]:
    """Return the processes that a process started."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError):  # a thread that ended meanwhile
            found += [int(child) for child in (task / "children").read_text().split()]
    return found


def tree_cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process and its living children."""
    return cpu_seconds(pid) + children_cpu_seconds(pid)


def children_cpu_seconds(pid: int) -> float:
    """Return the CPU time of the living children of a process."""
    return sum(cpu_seconds(one) for one in children(pid))


def resident_mib(pid: int) -> float:
    """Return the resident memory of a process, in MiB."""
    return _status(pid, "VmRSS:") / 1024


def tree_resident_mib(pid: int) -> float:
    """Return the resident memory of a process and its living children, in MiB."""
    return sum(resident_mib(one) for one in [pid, *children(pid)])


def peak_mib(pid: int) -> float:
    """Return the most resident memory that a process ever had, in MiB."""
    return _status(pid, "VmHWM:") / 1024


class Peak:
    """The most memory that was seen, in MiB."""

    alone = 0.0
    """Of the process."""
    together = 0.0
    """Of the process and its children, at one time."""


@contextmanager
def watched(pid: int) -> Iterator[Peak]:
    """Look at the memory of a process and its children 20 times a second."""
    peak, done = Peak(), threading.Event()

    def look() -> None:
        while True:
            with suppress(FileNotFoundError, ProcessLookupError):
                peak.alone = max(peak.alone, resident_mib(pid))
                peak.together = max(peak.together, tree_resident_mib(pid))
            if done.wait(_SAMPLE_SECONDS):
                return

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def _status(pid: int, name: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    found = [int(line.split()[1]) for line in lines if line.startswith(name)]
    return found[0] if found else 0  # one that has ended, and was not waited for, has none
