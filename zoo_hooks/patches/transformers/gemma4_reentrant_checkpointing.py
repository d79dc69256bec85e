"""Reentrant checkpointing gives wrong gradients where layers share K/V.

Symptom
-------
Training of Gemma-4 E2B and E4B, Gemma-3n and others whose last layers use the K/V of earlier ones
learns worse, without any error: the loss is right, the gradients are not. The layers that make the
shared K/V get none through those that use it, so they and all before them are wrong (cosine down
to 0.5). This holds with ``use_reentrant=True``, and where the keyword is absent, which torch takes as
True: ``peft.prepare_model_for_kbit_training(model)``, the usual way to QLoRA, does that. Mistral Large 4,
whose rotary embeddings learn from 5.24.0 on, raises in the backward instead.

Cause
-----
The shared K/V go from layer to layer in a dictionary, ``shared_kv_states``. Under reentrant
checkpointing the first forward runs without gradients, so the dictionary holds tensors without a
graph; the backward recomputes the last layers first, and they find these.

Repair
------
When checkpointing is switched on (``Trainer``, ``gradient_checkpointing_enable``,
``activation_checkpointing_enable``, peft) on a model that has a layer with shared K/V, the checkpoint
function gets ``use_reentrant=False`` and keeps its other keywords. This is told once, in a warning. Nothing
is done per step, and other models keep what was chosen. Not covered is code that sets
``_gradient_checkpointing_func`` of a layer itself, or hands in a function without that keyword.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches.transformers import _shared_kv, _tiny


def probe(module: ModuleType) -> Verdict:
    names = _shared_kv.attention_names(module)
    if "shared_kv_states" in names:
        reentrant = _shared_kv.stays_reentrant(module.PreTrainedModel)
        return Verdict.AFFECTED if reentrant else Verdict.FIXED
    # Shared through the cache, which checkpointing takes away: no reentrant layer uses shared K/V.
    return Verdict.FIXED if "kv_shared_layer_index" in names else Verdict.UNKNOWN


def repair(module: ModuleType, changes: Changes) -> None:
    make = _shared_kv.without_reentrant_checkpointing(changes)
    changes.wrap(module.PreTrainedModel, "_set_gradient_checkpointing", make)


def canary() -> Figure:
    import transformers

    sharing = _tiny.shared_model if hasattr(transformers, "Gemma4ForCausalLM") else _tiny.gemma3n_model
    expected = _gradients(sharing(**_tiny.PER_LAYER_INPUTS), None)
    gradients = _gradients(sharing(**_tiny.PER_LAYER_INPUTS), {})
    lowest = min(float(_cosine(expected[name], gradients[name])) for name in expected)
    return Figure(round(lowest, 9), healthy=lowest >= 0.999999)  # noqa: PLR2004


def _gradients(model: Any, checkpointing: dict[str, Any] | None) -> dict[str, Any]:
    if checkpointing is not None:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=checkpointing)
    model.train()(input_ids=_tiny.prompt(), labels=_tiny.prompt(), use_cache=False).loss.backward()
    named = {name: parameter.grad for name, parameter in model.named_parameters()}
    return {name: grad for name, grad in named.items() if grad is not None and grad.any()}


def _cosine(one: Any, other: Any) -> Any:
    import torch

    return torch.nn.functional.cosine_similarity(one.flatten().double(), other.flatten().double(), dim=0)


PATCH = Patch(
    module=__name__,
    title="reentrant checkpointing gives wrong gradients where layers share K/V",
    severity="silent wrong result",
    targets=(
        "transformers.models.gemma4.modeling_gemma4",
        "transformers.models.gemma4_unified.modeling_gemma4_unified",
        "transformers.models.gemma3n.modeling_gemma3n",
        "transformers.models.mistral_large4.modeling_mistral_large4",
    ),
    affects=("transformers>=5.5.2",),
    links=(
        "https://github.com/huggingface/transformers/pull/45312",
        "https://github.com/unslothai/unsloth-zoo/pull/813",
        "https://github.com/huggingface/peft/pull/1036",
    ),
    measures="lowest cosine of a gradient against no checkpointing (expected: 1.0)",
    probe=probe,
    repair=repair,
    canary=canary,
)
