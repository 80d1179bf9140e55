"""`GET /v1/routes`: who answers to which name now, for those who look after the service."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends

from files_api.accounts import Principal
from files_api.callers import needs
from files_api.kit.web import documented, door_route
from ocr_api.apis import Door, Services

Administrator = Annotated[Principal, Depends(needs("admin"))]


class Routes(Door):
    """Shows the routes as they work."""

    def router(self, services: Services) -> APIRouter:
        """Return the list."""
        router = APIRouter(route_class=door_route(), tags=["routes"])
        traffic = services.traffic

        @router.get("/v1/routes", responses=documented())
        async def list_routes(_: Administrator) -> dict[str, Any]:
            """Every public name: its targets, their shares, how they did of late, their servers.

            What is counted is this process's alone. ``file`` says when the routes were read, and
            what is wrong with the file where it changed since and cannot be used.
            """
            return {"object": "list", **traffic.picture()}

        return router
