"""Third-party layers update the KV cache twice under gradient checkpointing.

Symptom
-------
A third-party model has layers that derive from ``GradientCheckpointingLayer`` and take ``past_key_values``.
Training it with gradient checkpointing and a KV cache raises ``CheckpointError: ... Recomputed values for
the following tensors have different metadata``. Reentrant checkpointing gives wrong gradients instead,
without an error.

Cause
-----
``GradientCheckpointingLayer`` must not pass a cache to a layer that is recomputed in the backward pass.
From 5.24.0 on it removes only the argument ``cache`` and no longer ``past_key_values``. The recomputed
layer then adds its keys to those that it added in the forward pass.

No upstream issue is known. docs/upstream-reports-torch.md contains a report.

Repair
------
The repair wraps each layer that takes the cache only under an old name. Such a layer gets no cache while it
is checkpointed, as up to 5.23.0. A warning about this is logged once, except under ``torch.compile``. The
layer also accepts ``cache``, so that it works inside transformers' own models. Classes that were created
while the repair was active keep the wrapper when the repair is undone. The wrapper then does nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches.transformers import _cache_name, _foreign

_TOLD = (
    "{} is checkpointed, so it gets no {}: a cache would be written to again in the backward pass;"
    " use_cache=False says so too"
)
_switch = _cache_name.Switch()


def probe(module: ModuleType) -> Verdict:
    base = module.GradientCheckpointingLayer
    # What is taken away is taken in a wrapper of forward, before 5.23.0 in __call__; to run it would warn.
    found = _cache_name.strings(_empty(base).forward) | _cache_name.strings(base.__call__)
    takes_nothing = not any("cache" in text or "past" in text for text in found)  # up to 4.52
    if _cache_name.OLD[0] in found or takes_nothing:
        return Verdict.FIXED
    return Verdict.AFFECTED if _cache_name.NEW in found else Verdict.UNKNOWN


def repair(module: ModuleType, changes: Changes) -> None:
    base = module.GradientCheckpointingLayer
    upstream = _empty(base).forward.__code__
    changes.replace(_switch, "on", value=True)
    changes.wrap(base, "__init_subclass__", functools.partial(_minding, _without_cache(changes)))
    for kind in _foreign.subclasses(base):
        # One that other code has wrapped since is not checkpointed at all.
        if _cache_name.is_old(kind.forward) and getattr(kind.forward, "__code__", None) is upstream:
            _make_again(kind, base)


def _empty(base: Any) -> Any:
    class Layer(base):  # type: ignore[misc]
        def forward(self) -> None:
            pass

    return Layer


def _minding(without: Callable[..., Any], original: Callable[..., None]) -> Callable[..., None]:
    def init_subclass(cls: Any, **kwargs: Any) -> None:
        if _cache_name.is_old(cls.forward):
            cls.forward = without(cls.forward)  # below upstream's own, which must be outermost
        original(cls, **kwargs)

    return init_subclass


def _make_again(layer_class: Any, base: Any) -> None:
    layer_class.forward = layer_class.forward.__wrapped__
    base.__init_subclass__.__func__(layer_class)


def _without_cache(changes: Changes) -> Callable[..., Any]:
    from torch import is_grad_enabled
    from torch.compiler import is_compiling

    def without(forward: Callable[..., Any]) -> Callable[..., Any]:
        accepting = _cache_name.accepting(forward, _switch)
        old = _cache_name.taken(forward) or ""

        @functools.wraps(accepting)
        def checked(self: Any, *args: Any, **kwargs: Any) -> Any:
            if kwargs.get(old) is not None and _switch.on and self.gradient_checkpointing and self.training:
                # Nothing is computed again without gradients. The reentrant kind begins without them, but its
                # inputs have some.
                again = is_grad_enabled() or any(getattr(arg, "requires_grad", False) for arg in args)
                if again and not self._can_checkpoint_with_cache:
                    kwargs[old] = None
                    if not is_compiling():  # to log would break the graph, as upstream's warning did
                        changes.tell(_TOLD.format(type(self).__qualname__, old))
            return accepting(self, *args, **kwargs)

        return checked

    return without


def canary() -> Figure:
    import torch

    ids, ways = torch.arange(8)[None], []
    for checkpointing in (False, True):
        model = _foreign.layered().train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": True})
        torch.nn.functional.cross_entropy(model(ids)[0], ids[0]).backward()
        ways.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    cosine = round(float(torch.cosine_similarity(*ways, dim=0)), 4)
    return Figure(cosine, healthy=cosine == 1.0)


PATCH = Patch(
    module=__name__,
    title="Third-party layers update the KV cache twice under gradient checkpointing",
    severity="silent wrong result",
    targets=("transformers.modeling_layers",),
    affects=("transformers>=5.24.0",),
    links=(
        "https://github.com/huggingface/transformers/blob/v5.24.0/src/transformers/modeling_layers.py#L106-L111",
    ),
    measures="cosine of a third-party model's gradients with and without checkpointing (expected: 1.0)",
    probe=probe,
    repair=repair,
    canary=canary,
    behavioural=False,
)
