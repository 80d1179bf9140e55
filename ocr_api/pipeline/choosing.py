"""Who answers a request."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from files_api.accounts import Principal
from files_api.kit.errors import ModelUnavailable, ModelUnknown
from model_registry.registry import Choice, Registry, UnknownModelError, UnservedModelError
from ocr_api.request import OcrRequest, PathSource


async def choose(registry: Registry, request: OcrRequest, principal: Principal) -> Choice:
    """Return who answers a request; where pictures are wanted, who says where they are.

    What the command line reads has no shadows: it ends with its last page.

    Raises:
        ModelUnknown, ModelUnavailable: nobody does.
    """
    key = principal.org_id
    if registry.sticky(request.model) == "file":
        # In a thread: a document inside a request may have a hundred million characters.
        key = await asyncio.to_thread(request.source.key)
    try:
        choice = registry.choose(request.model, key, pictures=request.options.wants_pictures)
    except UnknownModelError as error:
        raise ModelUnknown(str(error), param="model") from error
    except UnservedModelError as error:
        raise ModelUnavailable(str(error), param="model") from error
    return replace(choice, shadows=()) if isinstance(request.source, PathSource) else choice
