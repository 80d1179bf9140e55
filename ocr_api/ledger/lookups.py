"""Questions that come while another one is on its way are asked together.

Why: a question costs a millisecond, however many keys it has, and a busy server has a request for
each page. Organisations never share one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

from files_api.kit.tasks import finished

Ask = Callable[[str, Sequence[str]], Awaitable[set[str]]]
"""Takes an organisation and keys; returns those that there are. It raises nothing."""


@dataclass
class _Question:
    keys: dict[str, None] = field(default_factory=dict)
    answer: set[str] | None = None


class Lookups:
    """Asks for many at once."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._next: dict[str, _Question] = {}
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def known(self, org_id: str, keys: Sequence[str]) -> set[str]:
        """Return which of the keys the organisation has."""
        question = self._next.setdefault(org_id, _Question())
        question.keys.update(dict.fromkeys(keys))
        turn = self._turns.setdefault(org_id, asyncio.Lock())
        async with turn:
            if question.answer is None:
                del self._next[org_id]  # who comes from now on asks the next one
                # To its end, also when this caller leaves: the others wait for it.
                await finished(self._answer(org_id, question))
        return question.answer.intersection(keys) if question.answer else set()

    async def _answer(self, org_id: str, question: _Question) -> None:
        question.answer = set()
        question.answer = await self._ask(org_id, [*question.keys])
