"""With transformers from 5.24 on, K/V are not quantized although the checkpoint has a ``kv_cache_scheme``.

Symptom
-------
A model gets a ``kv_cache_scheme`` from its checkpoint or from ``apply_quantization_config``, but its K/V
are not quantized. There is no error. The model has no ``k_scale``, and its logits equal those of the model
without the scheme. Before compressed-tensors 0.18, the scales exist and are not used. A scheme for
attention is ignored too.

Cause
-----
compressed-tensors recognises attention with a KV cache by a parameter ``past_key_value`` or
``past_key_values``, and passes its own cache under one of these names. From 5.24.0 on, transformers calls
the parameter ``cache``.

No upstream issue is known. docs/upstream-reports-torch.md contains a report.

Repair
------
Two modules of compressed-tensors ask for the name. They now find the parameter ``cache`` as
``past_key_values``, and their own cache is passed under the new name. Models whose scheme was applied
before zoo-hooks was activated are not changed.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict

KV_CACHE = "compressed_tensors.modeling.kvcache"
INITIALIZE = "compressed_tensors.quantization.lifecycle.initialize"
HOOK = "_kv_cache_attention_hook"
OLD, NEW = "past_key_values", "cache"


class _Attention:
    """Stands in for attention; what compressed-tensors asks it is the name of its class, and these."""

    k_proj = v_proj = None

    def __init__(self, name: str) -> None:
        self.seen: list[Any] = []
        self.kv_cache = SimpleNamespace(add_past_key_values=self.seen.append)
        # Only the names of the parameters are asked.
        forwards: dict[str, Any] = {OLD: lambda past_key_values: None, NEW: lambda cache: None}  # noqa: ARG005
        self.forward = forwards[name]


def probe(module: ModuleType) -> Verdict:
    if KV_CACHE not in sys.modules:
        return Verdict.FIXED  # before 0.13.0 a scheme has no effect on a forward pass
    from transformers.masking_utils import create_causal_mask

    parameters = inspect.signature(create_causal_mask).parameters
    name = next((name for name in (NEW, OLD) if name in parameters), None)
    if name is None:
        return Verdict.UNKNOWN
    attention = _Attention(name)
    asks = getattr(module, "is_cached_attention_module", None) or module.is_attention_module
    found = asks(attention)
    _, given = getattr(sys.modules[KV_CACHE], HOOK)(attention, (), {name: "cache"})
    if found and attention.seen == ["cache"] and given == {name: attention.kv_cache}:
        return Verdict.FIXED
    lost = not found or (name in given and given[name] is not attention.kv_cache)
    return Verdict.AFFECTED if lost else Verdict.UNKNOWN


def repair(module: ModuleType, changes: Changes) -> None:
    kv_cache = sys.modules[KV_CACHE]
    stand_in = ModuleType(inspect.__name__)
    vars(stand_in).update(vars(inspect))
    vars(stand_in)["signature"] = _signature
    for asking in (module, kv_cache):
        changes.replace(asking, "inspect", stand_in)
    changes.wrap(kv_cache, HOOK, _by_new_name)


def _signature(function: Callable[..., Any], **kwargs: Any) -> inspect.Signature:
    """The signature of a function, in which the cache has its old name."""
    given = inspect.signature(function, **kwargs)
    if NEW not in given.parameters or OLD in given.parameters:
        return given
    named = [one.replace(name=OLD) if one.name == NEW else one for one in given.parameters.values()]
    return given.replace(parameters=named)


def _by_new_name(original: Callable[..., Any]) -> Callable[..., Any]:
    def hook(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        takes_new = NEW in kwargs or NEW in inspect.signature(module.forward).parameters
        if OLD in kwargs or not takes_new:
            return original(module, args, kwargs)
        args, kwargs = original(module, args, _renamed(kwargs, NEW, OLD))
        return args, _renamed(kwargs, OLD, NEW)

    return hook


def _renamed(kwargs: dict[str, Any], name: str, other: str) -> dict[str, Any]:
    return {other if key == name else key: value for key, value in kwargs.items()}


def canary() -> Figure:
    import torch
    from compressed_tensors.quantization import (
        QuantizationArgs,
        QuantizationConfig,
        apply_quantization_config,
    )

    from zoo_hooks.patches import _tiny

    if KV_CACHE not in sys.modules:
        return Figure("this release quantizes none in a forward pass", healthy=True)
    model = _tiny.llama()
    text = torch.tensor([[1, 2, 3, 4]])
    with torch.no_grad():
        expected = model(text).logits
        scheme = QuantizationArgs(num_bits=4, type="int", symmetric=True, strategy="tensor")
        config = QuantizationConfig(config_groups={}, kv_cache_scheme=scheme, quantization_status="frozen")
        apply_quantization_config(model, config)
        for name, scale in model.named_parameters():
            if name.endswith(("k_scale", "v_scale")):
                scale.fill_(0.01)
        moved = float((model(text).logits - expected).abs().max())
    return Figure(moved, healthy=moved > 0)


PATCH = Patch(
    module=__name__,
    title="compressed-tensors does not quantize K/V despite a kv_cache_scheme",
    severity="silent wrong result",
    targets=(INITIALIZE,),  # the last of the two that is loaded
    affects=("compressed-tensors>=0.13.0", "transformers>=5.24.0"),
    links=(
        "https://github.com/vllm-project/compressed-tensors/blob/0.20.1/src/compressed_tensors/quantization/lifecycle/initialize.py#L165",
        "https://github.com/vllm-project/compressed-tensors/blob/0.20.1/src/compressed_tensors/modeling/kvcache.py#L121",
    ),
    measures="largest change of the logits when K/V are quantized to 4 bits (expected: not 0)",
    probe=probe,
    repair=repair,
    canary=canary,
)
