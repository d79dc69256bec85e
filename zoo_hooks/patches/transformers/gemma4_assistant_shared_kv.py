"""Gemma-4's assistants cannot be built, nor used with models that share no K/V.

Symptom
-------
Building or loading an assistant of Gemma-4 (``Gemma4AssistantForCausalLM``, or its unified form), which
predicts several tokens for a model from that model's K/V, raises ``ValueError: The set of layer types
producing a cache is different than the set of layer types using them``. With one that could be built,
generation by 31B and 26B-A4B would raise ``KeyError: 'full_attention'``.

Cause
-----
``kv_sharing_modes`` of the text config says of each layer whether it makes or takes shared K/V, and insists
that for each type of layer one makes them. All layers of an assistant take them, from another model; its
config even demands that. And where no layer takes any, none makes them, so that an assistant finds none.

Repair
------
As in releases before: where all layers share, each is one that takes K/V; where none does, the last of
each type makes them for an assistant. For other configs the property is upstream's own, with its check.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Patch, Verdict, symptom
from zoo_hooks.patches.transformers import _tiny


def probe(module: ModuleType) -> Verdict:
    modes = getattr(_config(module), "kv_sharing_modes", None)
    if modes is None:
        return Verdict.FIXED  # layers find out by themselves
    if not isinstance(modes, property) or not modes.fget:
        return Verdict.UNKNOWN
    alone = modes.fget(_text(0))
    if alone not in ([None] * 4, [None, None, "store", "store"]):
        return Verdict.UNKNOWN
    with symptom(ValueError, "layer types", by=modes.fget):
        if modes.fget(_text(4)) != ["reuse"] * 4:
            return Verdict.UNKNOWN
        return Verdict.FIXED if any(alone) else Verdict.AFFECTED
    return Verdict.AFFECTED


def _text(shared: int) -> Any:
    kinds = ["sliding_attention", "full_attention"] * 2
    return SimpleNamespace(num_hidden_layers=4, layer_types=kinds, num_kv_shared_layers=shared)


def repair(module: ModuleType, changes: Changes) -> None:
    changes.wrap(_config(module), "kv_sharing_modes", _modes)


def _config(module: ModuleType) -> Any:
    unified = module.__name__.endswith("unified")
    return module.Gemma4UnifiedTextConfig if unified else module.Gemma4TextConfig


def _modes(original: Callable[..., Any]) -> Callable[..., Any]:
    def kv_sharing_modes(self: Any) -> Any:
        if self.num_kv_shared_layers == self.num_hidden_layers:
            return ["reuse"] * self.num_hidden_layers
        modes = original(self)
        if self.num_kv_shared_layers == 0:
            for last in {kind: number for number, kind in enumerate(self.layer_types)}.values():
                modes[last] = "store"
        return modes

    return kv_sharing_modes


PATCH = Patch(
    module=__name__,
    title="Gemma-4's assistants cannot be built, nor used with models that share no K/V",
    severity="crash",
    symptoms=(
        "The set of layer types producing a cache is different than the set of layer types using them",
    ),
    targets=(
        "transformers.models.gemma4.configuration_gemma4",
        "transformers.models.gemma4_unified.configuration_gemma4_unified",
    ),
    affects=("transformers>=5.23.0,<5.24.0",),
    links=(
        "https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/gemma4/configuration_gemma4.py#L226-L252",
    ),
    measures="tokens generated with an assistant that are those without, of eight (expected: 8)",
    probe=probe,
    repair=repair,
    canary=_tiny.assisted,
)
