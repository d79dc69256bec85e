"""What a probe says of code that it recognises is what it says when it runs that code."""

from __future__ import annotations

import contextlib
import importlib

import pytest
import transformers

import zoo_hooks
from zoo_hooks import catalogue
from zoo_hooks.patches import _known

RECOGNISED = ("5.5.0", "5.24.0")
"""Releases whose code must be recognised; others, such as one that nobody has seen, may be run."""


@pytest.mark.parametrize("repaired", [True, False])
@pytest.mark.parametrize(
    "bug",
    [
        "gemma3-mlp-fp16",
        "gemma3n-mlp-fp16",
        "gemma4-mlp-fp16",
        "gemma4-experts-fp16",
        "gemma4-audio-attention-autocast",
        "gemma4-vision-pooler-fp16",
        "gemma4-patch-embedder-uint8",
        "gemma4-image-static-cache",
    ],
)
def test_a_run_says_the_same(bug, repaired, monkeypatch):
    """With the repair and without, in every model that has the bug, and under no other repair."""
    patch, known, answers = catalogue.get(f"transformers/{bug}"), _known.verdict, []

    def recognise(*args, **kwargs):
        answers.append(known(*args, **kwargs))
        return answers[-1]

    modules = []
    for target in patch.targets:
        with contextlib.suppress(ModuleNotFoundError):  # a family that this release lacks
            modules.append(importlib.import_module(target))
    if not modules:
        pytest.skip("this release has none of the models")
    own = contextlib.nullcontext() if repaired else zoo_hooks.disabled(patch.id)
    with zoo_hooks.disabled("transformers/generation-hooks-cache-name"), own:
        for module in modules:
            monkeypatch.setattr(_known, "verdict", recognise)
            recognised = patch.probe(module)
            monkeypatch.setattr(_known, "verdict", lambda *_, **__: None)
            assert patch.probe(module) is recognised
    assert answers
    if transformers.__version__ in RECOGNISED:
        assert None not in answers
