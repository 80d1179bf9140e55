"""Find a leaf by its file name. The only import by name in the house.

Why: one more engine, parser, door, store or export is one new file with no edit elsewhere. The
price is an edge that the import graph does not see; the contract suites pay it (design, 7).
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import TypeVar

Contract = TypeVar("Contract")


class UnknownLeafError(LookupError):
    """No leaf of this name stands in the street."""


def names(street: str) -> list[str]:
    """Return the leaf names of the package ``street``, sorted."""
    package = importlib.import_module(street)
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__))


def leaf(street: str, name: str, contract: type[Contract]) -> type[Contract]:
    """Return the one class in ``street``.``name`` that implements ``contract``.

    Raises:
        UnknownLeafError: no such file (the message lists those that exist), or the file does
            not hold exactly one class of the contract.
    """
    known = names(street)
    if name not in known:
        raise UnknownLeafError(f"{street} has no {name!r}; it has: {', '.join(known)}")
    module = importlib.import_module(f"{street}.{name}")
    classes = [
        item
        for item in vars(module).values()
        if isinstance(item, type)
        and issubclass(item, contract)
        and item.__module__.startswith(module.__name__)
    ]
    if len(classes) != 1:
        raise UnknownLeafError(f"{module.__name__} must hold one {contract.__name__}")
    return classes[0]
