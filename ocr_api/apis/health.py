"""Is the process alive, can it work, what has it done: what balancers and monitors ask."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from time import monotonic
from typing import Any, Generic, TypeVar

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, PlainTextResponse

from files_api.kit import metrics
from files_api.kit.errors import AppError
from ocr_api.apis import Check, Door, ModelServer, Services

CHECK_SECONDS = 5.0
"""A check that takes longer counts as failed."""
READY, DEGRADED = "ok", "degraded"
SHARED_SECONDS = 1.0
"""How long an answer is given again: anybody may ask, and each check costs a write or a request."""

Answer = TypeVar("Answer")


class Shared(Generic[Answer]):
    """The answer to one question, found once for all who ask at about the same time."""

    def __init__(
        self,
        find: Callable[[], Awaitable[Answer]],
        seconds: float = SHARED_SECONDS,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """Take what finds the answer, and how many seconds an answer is good."""
        self._find = find
        self._seconds = seconds
        self._clock = clock
        self._finding: asyncio.Task[Answer] | None = None
        self._good_until = float("-inf")

    async def get(self) -> Answer:
        """Return an answer that was found just now, or wait for the one that is being found.

        Raises whatever ended the finding; the next to ask begins it anew.
        """
        if self._finding is None or (self._finding.done() and self._clock() >= self._good_until):
            self._finding = asyncio.create_task(self._look(), name="readiness")
        # Who leaves must not end it for the others.
        return await asyncio.shield(self._finding)

    async def _look(self) -> Answer:
        self._good_until = float("-inf")
        answer = await self._find()
        self._good_until = self._clock() + self._seconds
        return answer


class Health(Door):
    """`/livez` never depends on anything else; `/readyz` says what is not ready."""

    reads = False

    def router(self, services: Services) -> APIRouter:
        """Return the four health routes and the metrics."""
        router = APIRouter(tags=["health"])
        readiness = Shared(lambda: _readiness(services))

        @router.get("/livez")
        @router.get("/health", include_in_schema=False)
        @router.get("/healthz", include_in_schema=False)
        async def livez() -> dict[str, str]:
            """Answer while the process runs."""
            return {"status": READY}

        @router.get("/readyz", responses={503: {"description": "Something is not ready."}})
        async def readyz(request: Request) -> JSONResponse:
            """Check the database, the blob store, and for each route whether a model answers.

            Without a model files are served all the same, so that the answer is `degraded` with
            200. It is given again for a second. A server that was told to end is not ready.
            """
            body = await readiness.get()
            ending = getattr(request.state, "ending", None)  # of `ocr_api.listening`, if it serves
            if ending is not None and ending.begun:
                body = {**body, "status": "stopping"}
            fine = body["status"] in (READY, DEGRADED)
            return JSONResponse(body, status_code=200 if fine else 503)

        @router.get("/metrics", response_class=PlainTextResponse)
        async def counted() -> PlainTextResponse:
            """Show what this process has counted, for Prometheus.

            With several API processes a scrape reaches any one of them: give each a port of
            its own (one process in each container) where the counts matter.
            """
            return PlainTextResponse(metrics.page(), media_type=metrics.MEDIA_TYPE)

        return router


async def _readiness(services: Services) -> dict[str, Any]:
    """Make every check; return the body of the answer."""
    model_checks = services.model_checks()
    problems = await asyncio.gather(
        *(_ask(check) for check in (*services.checks.values(), *model_checks.values()))
    )
    needed, models = problems[: len(services.checks)], problems[len(services.checks) :]
    by_server = dict(zip(model_checks, models, strict=True))
    routes = {name: _route(by_server, servers) for name, servers in services.routes().items()}
    names = [*services.checks, *_shown(model_checks, await _hidden(services))]
    status = "not ready" if any(needed) else DEGRADED if any(routes.values()) else READY
    return {
        "status": status,
        "checks": {name: problem or READY for name, problem in zip(names, problems, strict=True)},
        "routes": {name: problem or READY for name, problem in routes.items()},
    }


def _route(
    problems: Mapping[ModelServer, str | None], servers: Sequence[ModelServer]
) -> str | None:
    """Return why nobody answers to a public name; None where somebody does."""
    if any(problems.get(server) is None for server in servers):
        return None
    return "none of its models answers"


async def _hidden(services: Services) -> bool:
    """Tell whether strangers may ask; where nobody knows, they may."""
    try:
        return await asyncio.wait_for(services.any_keys(), CHECK_SECONDS)
    except Exception:  # noqa: BLE001 - whatever fails, the checks say it
        return True


def _shown(servers: Iterable[ModelServer], hidden: bool) -> list[str]:
    """Return the names of the models' servers: with addresses, or numbered for each card."""
    names, seen = [], Counter[str]()
    for card, place in servers:
        seen[card] += 1
        where = f"server {seen[card]}" if hidden else place
        names.append(f"model {card} at {where}" if place else f"model {card}")
    return names


async def _ask(check: Check) -> str | None:
    try:
        return await asyncio.wait_for(check(), CHECK_SECONDS)
    except TimeoutError:
        return f"no answer within {CHECK_SECONDS:g} s"
    except AppError as error:
        return error.message
    except Exception as error:  # noqa: BLE001 - whatever fails, the answer is "not ready"
        return type(error).__name__
