"""Reentrant gradient checkpointing gives wrong gradients where layers share K/V.

Symptom
-------
In Gemma-4 E2B and E4B, Gemma-3n and other models, the last layers reuse the K/V of earlier layers. With
reentrant checkpointing these models learn worse, without any error: the loss is correct, but the gradients
are wrong. The layers that compute the shared K/V get no gradients through the layers that reuse them. So
the gradients of these layers and of all layers before them are wrong (cosine down to 0.5).

This happens with ``use_reentrant=True``, and also without the keyword, which torch treats as True.
``peft.prepare_model_for_kbit_training(model)``, the usual way to QLoRA, leaves the keyword out. Mistral
Large 4, whose rotary embeddings are trained from 5.24.0 on, raises in the backward pass instead.

Cause
-----
The layers pass the shared K/V on in a dictionary, ``shared_kv_states``. Under reentrant checkpointing the
first forward runs without gradients, so the dictionary holds tensors without an autograd graph. The
backward pass recomputes the last layers first, and they find these tensors.

No upstream issue is known. docs/upstream-reports-torch.md contains a report.

Repair
------
The repair acts when checkpointing is enabled on a model that has a layer with shared K/V. It covers
``Trainer``, ``gradient_checkpointing_enable``, ``activation_checkpointing_enable`` and peft. The checkpoint
function gets ``use_reentrant=False`` and keeps its other keyword arguments, and a warning is logged once.
Nothing is added to each step, and other models keep the mode that was chosen.

Two cases are not covered: code that sets ``_gradient_checkpointing_func`` of a layer itself, and code that
passes a checkpoint function without this keyword.
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
    title="Reentrant checkpointing gives wrong gradients where layers share K/V",
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
    measures="lowest cosine similarity of a gradient to that without checkpointing (expected: 1.0)",
    probe=probe,
    repair=repair,
    canary=canary,
)
