"""Gemma-4 assistant models cannot be built, nor used with models that share no K/V.

Symptom
-------
An assistant model predicts several tokens for a main model from that model's K/V. Building or loading one
for Gemma-4 (``Gemma4AssistantForCausalLM``, or its unified form) raises ``ValueError: The set of layer
types producing a cache is different than the set of layer types using them``. Even if an assistant could be
built, generation with 31B and 26B-A4B would raise ``KeyError: 'full_attention'``.

Cause
-----
The property ``kv_sharing_modes`` of the text config says for each layer whether it stores or reuses shared
K/V. It requires that the same layer types do both.

In an assistant model all layers reuse K/V, which the main model has stored. The assistant's config even
requires this. So no layer stores any, and the check fails. In a main model in which no layer reuses K/V, no
layer stores them either, so an assistant finds none.

Repair
------
zoo-hooks restores what earlier releases did. If all layers share K/V, each of them is a layer that reuses
K/V. If no layer shares K/V, the last layer of each layer type stores its K/V for an assistant. All other
configs use upstream's property, including its check.
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
    title="Gemma-4 assistant models cannot be built, nor used with models that share no K/V",
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
    measures="tokens that are the same with and without an assistant model, of 8 (expected: 8)",
    probe=probe,
    repair=repair,
    canary=_tiny.assisted,
)
