"""Gemma-3n in mlx-vlm does not scale the token embeddings of a prompt.

Symptom
-------
The logits of a prompt are wrong, with or without a KV cache, with or without images. No error is raised. In
the canary's random model, they are off by 1.9 on a scale of 3. Generated text continues from a prompt that
was read wrongly. The language model called alone does not have this bug.

Cause
-----
Token embeddings must be multiplied by the square root of their size. Pull request 397 moved this scaling
from the embedding table to the language model, which applies it when it gets tokens. If it gets embeddings,
it uses them as they are. ``Model.get_input_embeddings`` computes a prompt's embeddings for
``Model.__call__`` and for generation. It still takes them from the table, without the scaling.

No upstream issue is known. docs/upstream-reports.md contains a report.

Repair
------
``Model.get_input_embeddings`` sees an embedding table that scales. zoo-hooks leaves alone the embeddings of
images and audio, which are merged into the prompt and have another scale. It also leaves alone embeddings
that the caller passes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from types import ModuleType, SimpleNamespace
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches.mlx_vlm import _tiny


class _View:
    """An object with some attributes of its own."""

    def __init__(self, seen: Any, **own: Any) -> None:
        self.__dict__ = own
        self._seen = seen

    def __getattr__(self, name: str) -> Any:
        return getattr(self._seen, name)


class _Scaled(_View):
    """A table of embeddings, multiplied by ``_scale``."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._seen(*args, **kwargs) * self._scale


class _Reached(Exception):
    """The probe has seen what it wants."""


def probe(module: ModuleType) -> Verdict:
    language = sys.modules.get(getattr(getattr(module, "LanguageModel", None), "__module__", ""))
    whole: Any = getattr(module, "Model", None)
    inner: Any = getattr(language, "Gemma3Model", None)
    if not all(isinstance(kind, type) for kind in (whole, inner)):
        return Verdict.UNKNOWN
    import mlx.core as mx

    seen: list[Any] = []

    def project(embeddings: Any, _: Any) -> None:
        seen.append(embeddings)
        raise _Reached

    text = SimpleNamespace(hidden_size=4)
    backbone = SimpleNamespace(
        hidden_size=4,
        config=text,
        embed_tokens=lambda _: 1.0,
        get_per_layer_inputs=lambda _: None,
        project_per_layer_inputs=project,
    )
    config = SimpleNamespace(text_config=text)
    language_model = SimpleNamespace(model=backbone, config=text)
    model = SimpleNamespace(language_model=language_model, config=config, vocab_size_per_layer_input=2)
    features = whole.get_input_embeddings(model, mx.array([[1]]))
    with suppress(_Reached):
        inner.__call__(backbone, None, features.inputs_embeds)
    scale = float(seen[0]) if seen else 0.0
    return {1.0: Verdict.AFFECTED, 2.0: Verdict.FIXED}.get(scale, Verdict.UNKNOWN)


def repair(module: ModuleType, changes: Changes) -> None:
    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def scaled(self: Any, *args: Any, **kwargs: Any) -> Any:
            language_model = self.language_model
            backbone = language_model.model
            table = _Scaled(backbone.embed_tokens, _scale=backbone.hidden_size**0.5)
            language_model = _View(language_model, model=_View(backbone, embed_tokens=table))
            return original(_View(self, language_model=language_model), *args, **kwargs)

        return scaled

    changes.wrap(module.Model, "get_input_embeddings", make)


def canary() -> Figure:
    model, tokens = _tiny.gemma3n_with_towers(), _tiny.prompt(8)
    gap = abs(model(tokens, None).logits - model.language_model(tokens).logits).max().item()
    return Figure(f"{gap:.3g}", healthy=gap < _tiny.SMALL)


PATCH = Patch(
    module=__name__,
    title="Gemma-3n in mlx-vlm does not scale the token embeddings of a prompt",
    severity="silent wrong result",
    targets=("mlx_vlm.models.gemma3n.gemma3n",),
    affects=("mlx-vlm>=0.4.1",),
    links=(
        "https://github.com/Blaizzy/mlx-vlm/blob/v0.7.10/mlx_vlm/models/gemma3n/gemma3n.py",
        "https://github.com/Blaizzy/mlx-vlm/pull/397",
    ),
    measures=(
        "difference in logits between the whole model and its language model alone (expected: below 1e-4)"
    ),
    probe=probe,
    repair=repair,
    canary=canary,
)
