"""Models that share K/V between layers, and their gradients, for the tests of several patches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers

from zoo_hooks.patches.transformers import _tiny

torch.set_num_threads(1)
MODELS: dict[str, Callable[..., Any]] = {"gemma3n": _tiny.gemma3n_model}
"""By name, those that the installed release has."""
if hasattr(transformers, "Gemma4ForCausalLM"):
    MODELS["gemma4"] = lambda **more: _tiny.shared_model(**_tiny.PER_LAYER_INPUTS, **more)
    MODELS["gemma4-multimodal"] = _tiny.multimodal_model
if hasattr(transformers, "Gemma4UnifiedTextConfig"):
    MODELS["gemma4-unified"] = _tiny.unified_model


def model(name: str = "", **more: Any) -> Any:
    """One of MODELS; without a name Gemma-4, or Gemma-3n before 5.5.0, which has no Gemma-4."""
    return MODELS[name or ("gemma4" if "gemma4" in MODELS else "gemma3n")](**more)


def inputs(model: Any) -> dict[str, Any]:
    """Token ids with labels, and an image where the model sees."""
    given = _tiny.image_inputs() if hasattr(model.config, "vision_config") else {"input_ids": _tiny.prompt()}
    return {**given, "labels": given["input_ids"]}


def backward(model: Any, **more: Any) -> tuple[dict[str, Any], int]:
    """Gradients of one step of training by parameter, and how often a text MLP ran for them."""
    calls = []
    texts = [part for name, part in model.named_modules() if name.endswith(".mlp") and "vision" not in name]
    hooks = [part.register_forward_hook(lambda *_: calls.append(1)) for part in texts]
    model.zero_grad()
    model.train()(**inputs(model), **{"use_cache": False, **more}).loss.backward()
    for hook in hooks:
        hook.remove()
    return gradients(model), len(calls)


def gradients(model: Any) -> dict[str, Any]:
    named = {name: parameter.grad for name, parameter in model.named_parameters()}
    return {name: grad.clone() for name, grad in named.items() if grad is not None and grad.any()}


def cosine(expected: dict[str, Any], seen: dict[str, Any]) -> float:
    """The lowest cosine of all parameters' gradients; 0 where one is missing."""
    assert expected
    return min(
        torch.nn.functional.cosine_similarity(
            grad.flatten().double(), seen.get(name, torch.zeros_like(grad)).flatten().double(), dim=0
        ).item()
        for name, grad in expected.items()
    )
