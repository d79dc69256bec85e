"""Setting ``rope_scaling`` on a config discards its ``rope_theta``.

Symptom
-------
The context of a model is extended with ``config.rope_scaling = {"rope_type": "yarn", "factor": 4.0}``. This
assignment leaves a Llama, Qwen or any other config without ``rope_theta``. A model made from the config
raises ``TypeError: unsupported operand type(s) for ** or pow(): 'NoneType' and 'Tensor'``. If the config
was saved and loaded first, the same error is raised from 5.21.0 on, and most earlier releases silently use
the rotary frequencies of a default theta.

Cause
-----
From 5.0.0 on, theta is stored in ``rope_parameters`` together with the other rotary parameters, and
``rope_scaling`` is an alias of that whole dictionary. The assigned dictionary replaces all of it. In
transformers 4 such a dictionary never contained theta.

Repair
------
If the assigned value is a dictionary without theta, zoo-hooks adds the theta that the config had before.
None, dictionaries with theta, and dictionaries with one part per layer type are set unchanged.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict

NAME, WHOLE, THETA = "rope_scaling", "rope_parameters", "rope_theta"


def probe(module: ModuleType) -> Verdict:
    config = getattr(module, "PreTrainedConfig", None)
    scaling = getattr(config, NAME, None)
    if not isinstance(scaling, property):
        return Verdict.FIXED
    code = getattr(scaling.fset, "__code__", None)
    if code is None or WHOLE not in code.co_names:
        return Verdict.UNKNOWN
    return Verdict.FIXED if THETA in (*code.co_consts, *code.co_names) else Verdict.AFFECTED


def repair(module: ModuleType, changes: Changes) -> None:
    scaling = vars(module.PreTrainedConfig)[NAME]
    changes.replace(
        module.PreTrainedConfig, NAME, property(scaling.fget, _keeping(scaling.fset), None, scaling.__doc__)
    )


def _keeping(original: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    def setter(self: Any, value: Any) -> None:
        theta = (getattr(self, WHOLE, None) or {}).get("rope_theta")
        flat = isinstance(value, dict) and value and not any(isinstance(one, dict) for one in value.values())
        if flat and theta is not None and value.get("rope_theta") is None:
            value = {**value, "rope_theta": theta}
        original(self, value)

    return setter


def canary() -> Figure:
    """A linear scaling by 1 changes nothing, so that all frequencies are those of the theta."""
    import torch
    from transformers import LlamaConfig, LlamaModel

    shape = {"vocab_size": 8, "hidden_size": 32, "intermediate_size": 8, "num_attention_heads": 4}
    whole = {"rope_type": "default", THETA: 500000.0}
    config = LlamaConfig(**shape, num_hidden_layers=1, **{WHOLE: whole})
    right = LlamaModel(config).rotary_emb.inv_freq
    config.rope_scaling = {"rope_type": "linear", "factor": 1.0}
    error = float(torch.abs(LlamaModel(config).rotary_emb.inv_freq / right - 1).max())
    return Figure(round(error, 5), healthy=error < 1e-5)  # noqa: PLR2004


PATCH = Patch(
    module=__name__,
    title="Setting rope_scaling on a config loses its rope_theta",
    severity="silent wrong result",
    symptoms=(
        (
            "unsupported operand type(s) for ** or pow(): 'NoneType' and 'Tensor' "
            "@ transformers.modeling_rope_utils"
        ),
    ),
    targets=("transformers.configuration_utils",),
    affects=("transformers>=5.0.0",),
    links=(
        "https://github.com/huggingface/transformers/blob/v5.24.0/src/transformers/configuration_utils.py#L720-L732",
        "https://github.com/NVIDIA-NeMo/Megatron-Bridge/pull/3077",
    ),
    measures="relative error of the rotary frequencies after setting rope_scaling (expected: 0.0)",
    probe=probe,
    repair=repair,
    canary=canary,
    behavioural=False,
)
