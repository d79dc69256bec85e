"""A custom module in a transformers model gets no KV cache if it calls it ``past_key_values``.

Symptom
-------
A custom module, such as an attention, is put into a transformers model, and its ``forward`` has
``past_key_values=None`` and ``**kwargs``. It receives no KV cache. All generated tokens after the first are
wrong, without an error. The same happens with ``LlamaAttention.forward = own_forward``, and with a
``forward`` that is set on a single module of a model.

Cause
-----
From 5.24.0 on, the layers of transformers pass the KV cache to their submodules as ``cache``. transformers'
own submodules have a decorator that accepts the old name too. Custom modules know only the old name, and
the layers do not check which name a submodule takes.

No upstream issue is known. docs/upstream-reports-torch.md contains a report.

Repair
------
When a module that takes the cache only under an old name is assigned to a layer of transformers, zoo-hooks
wraps the ``forward`` of its class. The wrapper accepts ``cache`` and passes it on under the old name. The
signature stays the same. All other cases are handled when ``generate`` prepares its cache: layers in a
list, a ``forward`` that was replaced on a class or a module, and unpickled models. A custom generation loop
in a process that never called ``generate`` with such a model is therefore repaired only for modules that
are assigned to a layer. If the repair is undone, the wrapper stays and does nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import FunctionType, MethodType, ModuleType
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches.transformers import _cache_name, _foreign

_switch = _cache_name.Switch()


def probe(module: ModuleType) -> Verdict:  # noqa: ARG001 - either of the two
    verdict = _foreign.handed_new_name()
    if verdict is not Verdict.AFFECTED:
        return verdict

    from torch.nn import Module
    from transformers.modeling_layers import GradientCheckpointingLayer

    class Part(Module):  # type: ignore[misc]
        def forward(self, past_key_values: Any = None, **_: Any) -> Any:
            return past_key_values

    class Layer(GradientCheckpointingLayer):  # type: ignore[misc]
        def forward(self, cache: Any) -> Any:
            return self.part(cache=cache)

    layer, given = Layer(), object()
    layer.part = Part()
    return Verdict.FIXED if layer(given) is given else Verdict.AFFECTED


def repair(module: ModuleType, changes: Changes) -> None:  # noqa: ARG001 - either of the two
    from transformers.generation.utils import GenerationMixin
    from transformers.modeling_layers import GradientCheckpointingLayer

    changes.replace(_switch, "on", value=True)
    changes.wrap(GradientCheckpointingLayer, "__setattr__", _setting)
    changes.wrap(GenerationMixin, "_prepare_cache_for_generation", _looking)


def _setting(original: Callable[..., None]) -> Callable[..., None]:
    from torch.nn import Module

    def set_attribute(self: Any, name: str, value: Any) -> None:
        original(self, name, value)
        if isinstance(value, Module) and _cache_name.is_old(_forward(value)) and _calls(self):
            _accept(value)

    return set_attribute


def _looking(original: Callable[..., Any]) -> Callable[..., Any]:
    def prepare(self: Any, *args: Any, **kwargs: Any) -> Any:
        _look(self, _calls(self), set())
        return original(self, *args, **kwargs)

    return prepare


def _look(module: Any, calls: bool, leaves: set[type]) -> None:  # noqa: FBT001 - handed on by itself only
    """Look through the modules that take the cache; classes of those that do not are gathered on the way."""
    for part in module._modules.values():  # noqa: SLF001 - children() costs as much as all else here
        if part is None or (type(part) in leaves and "forward" not in vars(part)):
            continue
        forward = _forward(part)
        if _cache_name.taken(forward):
            if calls and _cache_name.is_old(forward):
                _accept(part)
            _look(part, _calls(part), leaves)
        elif _hands_on(part):
            _look(part, calls, leaves)
        else:
            leaves.add(type(part))


def _forward(module: Any) -> Any:
    return getattr(module, "forward", None)  # a scripted module may have none


def _hands_on(module: Any) -> bool:
    """Tell whether a module may hand on a cache that it does not name, as lists and wrappers do."""
    code = getattr(inspect.unwrap(_forward(module)), "__code__", None)
    named = type(module).__module__ == "torch.nn.modules.container"
    return named or bool(code and code.co_flags & inspect.CO_VARKEYWORDS)


def _calls(module: Any) -> bool:
    """Tell whether a module's class calls its parts with the new name: it, or one above, takes it so."""
    return any(
        _cache_name.taken(vars(kind)["forward"]) == _cache_name.NEW
        for kind in type(module).__mro__
        if "forward" in vars(kind)
    )


def _accept(part: Any) -> None:
    own = vars(part).get("forward")
    if isinstance(own, MethodType):  # of the same function, so that it can be pickled as before
        part.forward = MethodType(_cache_name.accepting(own.__func__, _switch), own.__self__)
    elif own is not None:
        part.forward = _cache_name.accepting(own, _switch)
    elif not hasattr(part, "gradient_checkpointing"):  # such a layer is seen when its class is made
        owner: Any = next(kind for kind in type(part).__mro__ if "forward" in vars(kind))
        if isinstance(vars(owner)["forward"], FunctionType):
            owner.forward = _cache_name.accepting(vars(owner)["forward"], _switch)


def canary() -> Figure:
    model = _foreign.llama()
    for layer in model.model.layers:
        layer.self_attn = _foreign.attention()(layer.self_attn)
    return _foreign.figure(_foreign.wrong(model))


PATCH = Patch(
    module=__name__,
    title="A custom module in a transformers model gets no KV cache if it takes past_key_values",
    severity="silent wrong result",
    targets=("transformers.generation.utils", "transformers.modeling_layers"),
    requires=("transformers.generation.utils", "transformers.modeling_layers"),
    affects=("transformers>=5.24.0",),
    links=(
        "https://github.com/huggingface/transformers/blob/v5.24.0/src/transformers/models/llama/modeling_llama.py#L285-L310",
    ),
    measures="wrong tokens of 8 that a Llama with a custom attention generates (expected: 0)",
    probe=probe,
    repair=repair,
    canary=canary,
)
