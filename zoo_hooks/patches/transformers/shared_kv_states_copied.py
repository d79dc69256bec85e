"""Layers that share K/V lose them when FSDP2 or accelerate copies the dictionary that holds them.

Symptom
-------
Gemma-4 E2B and E4B, Gemma-3n and other models whose last layers reuse the K/V of earlier layers raise
``KeyError`` in the forward pass. From 5.5.2 to 5.8.1 this happens with FSDP2 and a
``MixedPrecisionPolicy``. Up to 5.22.2 it also happens when accelerate puts hooks on the layers, as
``cpu_offload``, ``dispatch_model`` and peft's loading into an offloaded model do.

Cause
-----
The layers pass shared K/V on in a dictionary, into which they write. FSDP2 rebuilds each ``dict`` among a
layer's arguments when it casts or moves them, and accelerate rebuilds each mapping. So the layers write
into copies. From 5.9.0 on, the dictionary is a ``UserDict``, which FSDP2 leaves alone.

Repair
------
zoo-hooks passes each layer a view of the dictionary instead. The view is not a ``dict``, and it moves its
tensors to a device itself, so FSDP2 and accelerate leave it as it is. Later transformers releases have
their own class for this.
"""

from __future__ import annotations

import inspect
from collections import UserDict
from collections.abc import Callable
from types import ModuleType
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches.transformers import _shared_kv, _tiny

NAME = "shared_kv_states"


class Shared(UserDict):  # type: ignore[type-arg]
    """The entries of another dictionary, not copies of them."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def to(self, *args: Any, **kwargs: Any) -> Shared:
        """Move what is there, as accelerate asks of its arguments."""
        for key, states in self.data.items():
            self.data[key] = tuple(one.to(*args, **kwargs) for one in states)
        return self


def probe(module: ModuleType) -> Verdict:
    """Whether a layer that is called with a dictionary gets that one, and the model has no better."""
    if NAME not in _shared_kv.attention_names(module):
        return Verdict.FIXED
    layer, models = _named(module, "TextDecoderLayer"), _named(module, "TextModel")
    if layer is None or models is None:
        return Verdict.UNKNOWN
    if "KVSharingDict" in inspect.unwrap(models.forward).__code__.co_names:
        return Verdict.FIXED

    import torch

    given: dict[str, Any] = {}
    seen = []
    one = layer.__new__(layer)
    torch.nn.Module.__init__(one)
    one.forward = lambda *_, **named: seen.append(named[NAME])
    one(None, **{NAME: given})
    return Verdict.AFFECTED if seen[0] is given else Verdict.FIXED


def repair(module: ModuleType, changes: Changes) -> None:
    changes.wrap(_named(module, "TextDecoderLayer"), "__call__", _sharing)


def _named(module: ModuleType, end: str) -> Any:
    return next((kind for name, kind in vars(module).items() if name.endswith(end)), None)


def _sharing(original: Callable[..., Any]) -> Callable[..., Any]:
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if NAME in kwargs:
            kwargs[NAME] = _view(kwargs[NAME])
        return original(self, *map(_view, args), **kwargs)

    return call


def _view(given: Any) -> Any:
    return Shared(given) if type(given) in (dict, UserDict) else given


def canary() -> Figure:
    """Of a Gemma-4 with accelerate's hooks on its layers; of a Gemma-3n where there is none yet."""
    import torch
    import transformers
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    has_gemma4 = hasattr(transformers, "Gemma4ForCausalLM")
    model = _tiny.shared_model(**_tiny.PER_LAYER_INPUTS) if has_gemma4 else _tiny.gemma3n_model()
    with torch.no_grad():
        expected = model(_tiny.prompt(), use_cache=False).logits
        for layer in model.model.layers:
            add_hook_to_module(layer, AlignDevicesHook(execution_device="cpu", io_same_device=True))
        gap = float((model(_tiny.prompt(), use_cache=False).logits - expected).abs().max())
    return Figure(gap, healthy=gap == 0.0)


PATCH = Patch(
    module=__name__,
    title="Shared K/V are lost when FSDP2 or accelerate copies the dictionary that holds them",
    severity="crash",
    symptoms=(
        # the first releases have the number of a layer as key: 13 or 14 in E2B, 22 or 23 in E4B
        *(f"KeyError: {layer} @ modeling_gemma4" for layer in (0, 13, 14, 22, 23)),
        "sliding_attention @ modeling_gemma4",
        "full_attention @ modeling_gemma4",
        "sliding_attention @ modeling_gemma3n",
    ),
    targets=(
        "transformers.models.gemma4.modeling_gemma4",
        "transformers.models.gemma4_unified.modeling_gemma4_unified",
        "transformers.models.gemma3n.modeling_gemma3n",
    ),
    affects=("transformers>=5.5.2,<5.23.0",),
    links=(
        "https://github.com/huggingface/transformers/blob/v5.22.2/src/transformers/models/gemma4/modeling_gemma4.py#L1672-L1675",
    ),
    measures="largest difference of logits with and without accelerate's hooks on the layers (expected: 0.0)",
    probe=probe,
    repair=repair,
    canary=canary,
)
