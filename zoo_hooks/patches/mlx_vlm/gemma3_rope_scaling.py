"""Gemma-3 in mlx-vlm ignores the rope scaling of its global layers.

Symptom
-------
Gemma-3 4B, 12B and 27B give wrong logits. No error is raised. In the canary's random model with a factor of
8, as these checkpoints have, logits of 60 tokens are off by 5.3.

Cause
-----
The config's ``rope_scaling`` divides the positions of each layer with full attention by 8. ``Attention``
creates its rotary embedding without it. mlx-vlm 0.6.14 passes it on.

No upstream issue is known.

Repair
------
A layer with full attention gets the scale of a ``rope_scaling`` of the type ``linear``, when it is created.
Layers with a sliding window, other types, and configs without ``rope_scaling`` are not changed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches.mlx_vlm import _tiny

_LINEAR = {"rope_type": "linear", "factor": 8.0}


def probe(module: ModuleType) -> Verdict:
    kind = getattr(module, "Attention", probe)
    names = inspect.unwrap(vars(kind).get("__init__", probe)).__code__.co_names
    if "rope_global_base_freq" not in names:
        return Verdict.UNKNOWN
    if "rope_scaling" in names:
        return Verdict.FIXED
    return Verdict.AFFECTED if "RoPE" in names else Verdict.UNKNOWN


def repair(module: ModuleType, changes: Changes) -> None:
    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def init(self: Any, *args: Any, **kwargs: Any) -> None:
            original(self, *args, **kwargs)
            _scale(self, args[0] if args else kwargs["config"])

        return init

    changes.wrap(module.Attention, "__init__", make)


def _scale(attention: Any, config: Any) -> None:
    scaling = getattr(config, "rope_scaling", None) or {}
    if not attention.is_sliding and scaling.get("rope_type", scaling.get("type")) == "linear":
        attention.rope.scale = 1 / scaling["factor"]


def canary() -> Figure:
    from mlx import nn

    model, tokens = _model(_LINEAR), _tiny.prompt(60)
    found = model(tokens).logits
    for layer in model.layers:
        if not layer.self_attn.is_sliding:
            layer.self_attn.rope = nn.RoPE(8, base=1_000_000.0, scale=1 / 8)
    error = abs(found - model(tokens).logits).max().item()
    return Figure(error, healthy=error < _tiny.SMALL)


def _model(scaling: Any) -> Any:
    from mlx_vlm.models.gemma3 import TextConfig
    from mlx_vlm.models.gemma3.language import LanguageModel

    config = TextConfig(
        model_type="gemma3_text",
        hidden_size=32,
        num_hidden_layers=6,
        intermediate_size=32,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        vocab_size=96,
        query_pre_attn_scalar=8,
        sliding_window=8,
        sliding_window_pattern=3,
        rope_scaling=scaling,
    )
    return _tiny.filled(LanguageModel(config))


PATCH = Patch(
    module=__name__,
    title="Gemma-3 in mlx-vlm ignores the rope scaling of its global layers",
    severity="silent wrong result",
    targets=("mlx_vlm.models.gemma3.language",),
    affects=("mlx-vlm>=0.4.0,<0.6.14",),
    links=("https://github.com/Blaizzy/mlx-vlm/blob/v0.6.13/mlx_vlm/models/gemma3/language.py",),
    measures="error of logits with a linear rope scaling of 8 (expected: below 1e-4)",
    probe=probe,
    repair=repair,
    canary=canary,
    behavioural=False,
)
