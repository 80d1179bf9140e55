"""How many files, and so connections, this process may have open."""

from __future__ import annotations

import resource

_MOST_FILES = 65_536


def raise_file_limit() -> int:
    """Let this process open as many files as it may; return how many.

    Not above 65,536: some programs that we start visit every descriptor that there might be.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return _MOST_FILES if soft == resource.RLIM_INFINITY else soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted
