"""The load format ``scripted``: random tiny weights that recite a known page, then end.

The text model becomes a table from the last token to the next one. What attention and MLP
blocks put out is zero, so a position's state is its token's embedding alone. Every token of the
script is embedded as the code of the token behind it, and the output layer answers with the
token whose code it sees. All other tokens, among them whatever a prompt ends with, are embedded
as the code of the script's first token. Codes are random signs: far apart, whatever the
temperature.

So the tokens of a script must be distinct; tiny/tokens.py makes them so.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from vllm.model_executor.model_loader import register_model_loader
from vllm.model_executor.model_loader.dummy_loader import DummyModelLoader

SILENT = ("o_proj.weight", "down_proj.weight", "w2_weight", "w2_bias")
"""The last weights of attention, MLP and expert blocks."""
VISION = ("visual.", "vision_", "sam_model.", "projector", "multi_modal_projector.")


@register_model_loader("scripted")
class ScriptedLoader(DummyModelLoader):
    """vLLM's loader of random weights, with the text part written over."""

    def load_weights(self, model: Any, model_config: Any) -> None:
        """Fill the weights; ``script.json`` of the model folder lists the token ids."""
        super().load_weights(model, model_config)
        script = json.loads((Path(model_config.model) / "script.json").read_text("utf-8"))
        with torch.no_grad():
            tables = _silence(model)
            _write(script, tables["embed_tokens"], tables["lm_head"])


def _silence(model: Any) -> dict[str, torch.Tensor]:
    """Make every text block add nothing; return the first and the last layer, by name."""
    tables = {}
    for name, weights in model.named_parameters():
        if name.startswith(VISION):
            continue
        if name.endswith(SILENT):
            weights.zero_()
        elif name.endswith("norm.weight"):
            weights.fill_(1)
        elif name.endswith(("embed_tokens.weight", "lm_head.weight")):
            tables[name.split(".")[-2]] = weights
    return tables


def _write(script: list[int], embedding: torch.Tensor, head: torch.Tensor) -> None:
    """Write the table: both tensors are [vocabulary, hidden] floats, changed in place."""
    chance = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (len(script), embedding.shape[1]), generator=chance)
    codes = (signs * 2 - 1).to(embedding.dtype)
    embedding[:] = codes[0]
    head.zero_()
    head[script] = codes
    embedding[script[:-1]] = codes[1:]
