"""A model folder on disk: configuration, tokenizer, processors, template, and its page's ids."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.vllm.tiny import families, pages, tokens

FAMILIES: dict[str, tuple[Callable[[], families.Family], str]] = {
    "deepseek_ocr": (families.deepseek_ocr, pages.DEEPSEEK_OCR),
    "lighton_ocr": (families.lighton_ocr, pages.LIGHTON_OCR),
    "lighton_ocr_bbox": (families.lighton_ocr, pages.LIGHTON_OCR_BBOX),
    "glm_ocr": (families.glm_ocr, pages.GLM_OCR),
    "text": (families.text, pages.TEXT),
}
"""Model folder name -> how it is made, and the page that it recites."""


def write(name: str, parent: Path, page: str | None = None) -> Path:
    """Write one model folder; another page than its own may be given to it."""
    make, own = FAMILIES[name]
    family = make()
    ids, script = tokens.vocabulary(family.controls, own if page is None else page)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": family.begin,
        "eos_token": family.end,
        "pad_token": family.pad,
        "add_bos_token": False,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 8192,
    }
    if family.processor:
        settings["processor_class"] = family.processor
    files = {
        "config.json": family.config,
        "tokenizer.json": tokens.tokenizer(ids, family.controls),
        "tokenizer_config.json": settings,
        "script.json": [*script, family.controls.index(family.end)],
        **family.files,
    }
    folder = parent / name
    folder.mkdir(parents=True, exist_ok=True)
    for file, contents in files.items():
        text = json.dumps(contents, indent=2, ensure_ascii=False)
        (folder / file).write_text(text + "\n", "utf-8")
    if family.template:
        (folder / "chat_template.jinja").write_text(family.template, "utf-8")
    return folder
