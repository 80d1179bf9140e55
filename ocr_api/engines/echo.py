"""The fake engine: answers with the page it was shown, at once, and reads nothing.

It ships because a service must be testable without a model: smoke tests, timing, prompts.
"""

from __future__ import annotations

import hashlib

from ocr_api.engines import Engine, PageTask
from ocr_api.result import Reading, Usage


class Echo(Engine):
    """Says which page it saw, how large it was, and what it was asked."""

    async def read(self, task: PageTask) -> Reading:
        """Return the page's index, size, digest and prompt; counts words as tokens."""
        page = task.page
        digest = hashlib.sha256(page.jpeg).hexdigest()[:12]
        text = f"# Page {page.index}\n\n{page.width} x {page.height} px, sha256 {digest}"
        if task.prompt:
            text += f"\n\nPrompt: {task.prompt}"
        words = len((task.prompt or "").split())
        return Reading(text=text, usage=Usage(words, len(text.split())))
