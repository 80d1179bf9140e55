"""Is the process alive, can it work, what has it done: what balancers and monitors ask."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter
from fastapi.responses import JSONResponse, PlainTextResponse

from files_api.kit import metrics
from files_api.kit.errors import AppError
from ocr_api.apis import Check, Door, Services

CHECK_SECONDS = 5.0
"""A check that takes longer counts as failed."""


class Health(Door):
    """`/livez` never depends on anything else; `/readyz` says what is not ready."""

    def router(self, services: Services) -> APIRouter:
        """Return the four health routes and the metrics."""
        router = APIRouter(tags=["health"])

        @router.get("/livez")
        @router.get("/health", include_in_schema=False)
        @router.get("/healthz", include_in_schema=False)
        async def livez() -> dict[str, str]:
            """Answer while the process runs."""
            return {"status": "ok"}

        @router.get("/readyz", responses={503: {"description": "Something is not ready."}})
        async def readyz() -> JSONResponse:
            """Check the database, the blob store and each model's server; one model will do."""
            checks = {**services.checks, **services.model_checks}
            answers = await asyncio.gather(*map(_ask, checks.values()))
            problems = dict(zip(checks, answers, strict=True))
            a_model = not all(problems[name] for name in services.model_checks)
            ready = a_model and not any(problems[name] for name in services.checks)
            body = {
                "status": "ok" if ready else "not ready",
                "checks": {name: problem or "ok" for name, problem in problems.items()},
            }
            return JSONResponse(body, status_code=200 if ready else 503)

        @router.get("/metrics", response_class=PlainTextResponse)
        async def counted() -> PlainTextResponse:
            """Show what this process has counted, for Prometheus.

            With several API processes a scrape reaches any one of them: give each a port of
            its own (one process in each container) where the counts matter.
            """
            return PlainTextResponse(metrics.page(), media_type=metrics.MEDIA_TYPE)

        return router


async def _ask(check: Check) -> str | None:
    try:
        return await asyncio.wait_for(check(), CHECK_SECONDS)
    except TimeoutError:
        return f"no answer within {CHECK_SECONDS:g} s"
    except AppError as error:
        return error.message
    except Exception as error:  # noqa: BLE001 - whatever fails, the answer is "not ready"
        return type(error).__name__
