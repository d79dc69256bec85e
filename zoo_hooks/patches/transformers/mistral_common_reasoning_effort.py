"""Processors cannot be loaded if mistral-common is older than 1.10.

Symptom
-------
With mistral-common older than 1.10, ``WhisperProcessor.from_pretrained``, and
``AutoProcessor.from_pretrained`` for Gemma-4, Qwen3.5 and others, raise ``ImportError: cannot import name
'ReasoningEffort' from 'mistral_common.protocol.instruct.request'``. These models have nothing to do with
Mistral.

Cause
-----
A processor looks up every class that a tokenizer may have, so it imports ``tokenization_mistral_common``.
This module imports ``ReasoningEffort`` for a type annotation. Older releases of mistral-common do not have
this class. Later releases of transformers do not use such a mistral-common.

Repair
------
While the body of ``tokenization_mistral_common`` runs, ``ReasoningEffort`` is defined as ``typing.Any``. It
is removed afterwards, so all other code still finds that mistral-common does not have it. A tokenizer of an
older mistral-common rejects a reasoning effort itself.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches import _broken

REQUESTS, NAME = "mistral_common.protocol.instruct.request", "ReasoningEffort"
CLASSES = """
class _Kind(type):
    def __getattr__(cls, name):
        if name.startswith("_"):
            raise AttributeError(name)
        return _Kind(name, (), {})
def __getattr__(name):
    if name in ("ReasoningEffort", "__path__"):
        raise AttributeError(name)
    return _Kind(name, (), {})
"""
MODULES = (
    "protocol/instruct/request",
    "protocol/instruct/validator",
    "tokens/tokenizers/base",
    "tokens/tokenizers/mistral",
    "tokens/tokenizers/tekken",
    "tokens/tokenizers/utils",
)


def probe(module: ModuleType) -> Verdict:
    if module.__spec__ is None or module.__spec__.loader is None:
        return Verdict.UNKNOWN
    source = module.__spec__.loader.get_data(module.__spec__.origin)  # type: ignore[attr-defined]
    if f"{REQUESTS} import".encode() not in source or NAME.encode() not in source:
        return Verdict.FIXED
    asks = import_module("transformers.utils").is_mistral_common_available
    if not asks():  # then nothing of it is imported
        return Verdict.FIXED
    return Verdict.FIXED if hasattr(import_module(REQUESTS), NAME) else Verdict.AFFECTED


def repair(_: ModuleType, changes: Changes) -> None:
    changes.replace(import_module(REQUESTS), NAME, Any)


def canary() -> Figure:
    from importlib.util import find_spec

    from zoo_hooks.patches.transformers import torchvision_broken

    parts = {f"mistral_common/{part}": CLASSES for part in map("{}.py".format, MODULES)}
    packages = ("protocol/", "protocol/instruct/", "tokens/", "tokens/tokenizers/")
    beside = {} if find_spec("PIL") else torchvision_broken.PILLOW
    beside = {f"mistral_common/{name}__init__.py": "" for name in ("", *packages)} | parts | beside
    return _broken.with_broken(
        "mistral_common", "import transformers.tokenization_mistral_common", beside, version="1.9.1"
    )


PATCH = Patch(
    module=__name__,
    title="Processors cannot be loaded if mistral-common is older than 1.10",
    severity="crash",
    symptoms=("cannot import name 'ReasoningEffort' from 'mistral_common",),
    targets=("transformers.tokenization_mistral_common",),
    when="before",
    affects=("transformers>=5.4.0,<5.14.0", "mistral-common<1.10.0"),
    links=(
        "https://github.com/huggingface/transformers/issues/45372",
        "https://github.com/huggingface/transformers/pull/45378",
    ),
    measures="result of importing transformers.tokenization_mistral_common (expected: imported)",
    probe=probe,
    repair=repair,
    canary=canary,
)
