"""How long the tests here run: short with a fixed seed, or long with a random one.

``make soak`` sets RECTO_SOAK, and a RECTO_SEED that it prints and that repeats a run. Both are
read while this module is imported, since no test sees a variable of ours.
"""

from __future__ import annotations

import os
import secrets

SOAK = bool(os.environ.get("RECTO_SOAK"))
SEED = int(os.environ.get("RECTO_SEED") or (secrets.randbelow(2**32) if SOAK else 4))


def scaled(short: int, long: int) -> int:
    """Return the number for CI, or the one for ``make soak``."""
    return long if SOAK else short
