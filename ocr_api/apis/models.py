"""`GET /v1/models`, as the OpenAI and Mistral clients read it."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from files_api.callers import Caller
from files_api.kit.errors import ModelNotFound, ModelUnavailable
from files_api.kit.web import documented, door_route
from model_registry.card import Card
from model_registry.registry import UnknownModelError, UnservedModelError
from ocr_api.apis import Door, Services

CREATED = 1704067200
"""OpenAI's clients want a time of creation; models here have none. 2024-01-01, fixed."""


class Models(Door):
    """Lists the public names that answer."""

    def router(self, services: Services) -> APIRouter:
        """Return the list and the single model."""
        router = APIRouter(route_class=door_route(), tags=["models"])
        registry = services.registry

        @router.get("/v1/models", responses=documented())
        async def list_models(caller: Caller) -> dict[str, Any]:
            """Every public name that answers, without its aliases."""
            entries = [
                entry(name, registry.choose(name, caller.org_id).card, registry.aliases(name))
                for name in registry.names()
            ]
            return {"object": "list", "data": entries}

        @router.get(
            "/v1/models/{model_id:path}", responses=documented(ModelNotFound, ModelUnavailable)
        )
        async def get_model(model_id: str, caller: Caller) -> dict[str, Any]:
            """One model by its name or an alias; the id may hold a slash, raw or as %2F."""
            try:
                choice = registry.choose(model_id, caller.org_id)
            except UnknownModelError as error:
                raise ModelNotFound(str(error), param="model") from error
            except UnservedModelError as error:
                raise ModelUnavailable(str(error), param="model") from error
            return entry(model_id, choice.card, registry.aliases(model_id))

        return router


def entry(name: str, card: Card, aliases: list[str]) -> dict[str, Any]:
    """Return a model as a client reads it.

    The Mistral SDK drops the whole list when one entry lacks ``type`` or ``capabilities``.
    """
    return {
        "id": name,
        "object": "model",
        "created": CREATED,
        "owned_by": card.id.split("/")[0] if "/" in card.id else "recto",
        "type": "base",
        "name": card.name,
        "description": card.description,
        "aliases": aliases,
        "deprecation": None,
        "capabilities": {
            "ocr": True,
            "vision": True,
            "completion_chat": False,
            "completion_fim": False,
            "function_calling": False,
            "fine_tuning": False,
            "classification": False,
            "annotation": card.annotation is not None,
            "free_prompts": card.capabilities.free_prompts,
            "blocks": card.capabilities.blocks,
        },
    }
