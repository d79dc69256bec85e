"""Gemma-4 with shared K/V but without per-layer inputs raises TypeError on more than one token.

Symptom
-------
A Gemma-4 model with ``hidden_size_per_layer_input=0`` and ``num_kv_shared_layers`` above 0 raises
``TypeError: 'NoneType' object is not subscriptable`` in its first forward. No released checkpoint is known
to have such a config, but models that are built from a config may have it.

Cause
-----
Before the layers that share K/V, ``_maybe_slice_kv_shared_inputs`` drops the positions whose logits are not
requested. It slices the per-layer inputs too, without checking whether the model has any.

Repair
------
If there are no per-layer inputs, the function slices a view of the hidden states in their place, and the
caller gets None for them. Models with per-layer inputs run upstream's function directly.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict, symptom
from zoo_hooks.patches.transformers import _tiny

SLICER = "_maybe_slice_kv_shared_inputs"


class _States:
    """Stands in for hidden states, which the code only takes parts of."""

    shape = (1, 2, 1)

    def __getitem__(self, _: Any) -> Any:
        return self


def probe(module: ModuleType) -> Verdict:
    slicer = getattr(module.Gemma4TextModel, SLICER, None)
    if slicer is None:
        return Verdict.FIXED
    model = SimpleNamespace(config=SimpleNamespace(_attn_implementation="eager"))
    with symptom(TypeError, "'NoneType' object is not subscriptable", by=slicer):
        # by position, for the last one, the cache, has had two names
        slicer(model, _States(), None, {}, {}, 1, None)
        return Verdict.FIXED
    return Verdict.AFFECTED


def repair(module: ModuleType, changes: Changes) -> None:
    changes.wrap(module.Gemma4TextModel, SLICER, _without_inputs)


def _without_inputs(original: Callable[..., Any]) -> Callable[..., Any]:
    def slice_inputs(self: Any, hidden_states: Any, per_layer_inputs: Any, *args: Any, **kwargs: Any) -> Any:
        if per_layer_inputs is not None:
            return original(self, hidden_states, per_layer_inputs, *args, **kwargs)
        hidden_states, _, *rest = original(self, hidden_states, hidden_states[:, :, None, :], *args, **kwargs)
        return hidden_states, None, *rest

    return slice_inputs


def canary() -> Figure:
    import torch

    model = _tiny.shared_model()
    with torch.no_grad():
        whole, last = (model(_tiny.prompt(), logits_to_keep=keep).logits[:, -1] for keep in (0, 1))
    difference = float((whole - last).abs().max())
    return Figure(round(difference, 5), healthy=difference < 1e-5)  # noqa: PLR2004


PATCH = Patch(
    module=__name__,
    title="Gemma-4 with shared K/V but without per-layer inputs raises TypeError",
    severity="crash",
    symptoms=("'NoneType' object is not subscriptable @ _maybe_slice_kv_shared_inputs",),
    targets=("transformers.models.gemma4.modeling_gemma4",),
    affects=("transformers>=5.23.0",),
    links=(
        "https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/gemma4/modeling_gemma4.py",
    ),
    measures="largest difference of the last logits, requested alone and with all others (expected: 0.0)",
    probe=probe,
    repair=repair,
    canary=canary,
)
