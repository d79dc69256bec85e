"""Patches for encoders that pass the cache to their layers by position.

``GradientCheckpointingLayer`` takes the cache from a layer that is computed again in the backward pass, but
looks for it among keyword arguments only. The layer then adds its keys and values to the cache once more.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches.transformers import _source, _tiny

Call = Callable[..., Any]
OVERFULL = "The size of tensor a (*) must match the size of tensor b (*)"
CACHE = ("cache", "past_key_values")
WAY = {"use_reentrant": False}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One family. ``make`` returns a tiny model, and what it gets besides ``input_ids``."""

    module: str
    title: str
    target: str
    name: str
    line: int
    affects: str
    make: Call

    def probe(self, module: ModuleType) -> Verdict:
        layer, kind = getattr(module, f"{self.name}Layer", None), getattr(module, f"{self.name}Encoder", None)
        if layer is None or kind is None:
            return Verdict.UNKNOWN
        forward = inspect.unwrap(kind.forward)
        # Else it is checkpointed in another way; or caches are tuples, which nobody writes into.
        if not (hasattr(module, "GradientCheckpointingLayer") and hasattr(module, "DynamicCache")):
            return Verdict.FIXED
        if "DynamicCache" in forward.__code__.co_names:
            return Verdict.FIXED  # the encoder makes it itself, and none under checkpointing
        names = [name for name in CACHE if name in inspect.signature(kind.forward).parameters]
        if not names or _place(layer) is None:
            return Verdict.UNKNOWN
        return passed(kind, layer, names[0])

    def repair(self, module: ModuleType, changes: Changes) -> None:
        layer = getattr(module, f"{self.name}Layer")
        names, place = [*inspect.signature(layer.forward).parameters][1:], _place(layer)
        changes.wrap(layer, "__call__", lambda original: by_keyword(original, names, place))

    def canary(self) -> Figure:
        (expected, plain), (loss, gradients) = step(self.make), step(self.make, WAY)
        apart = max(float((gradients - plain).abs().max()), abs(loss - expected))
        return Figure(round(apart, 5), healthy=apart < 1e-6)  # noqa: PLR2004

    def patch(self) -> Patch:
        return Patch(
            module=self.module,
            title=self.title,
            severity="crash",
            symptoms=(f"{OVERFULL} @ backward @ torch.utils.checkpoint @ {self.target}",),
            targets=(self.target,),
            affects=(self.affects,),
            links=(
                _source.link(self.target, self.line),
                _source.link("transformers.modeling_layers", 51),
            ),
            measures="change of a step's loss and gradients by checkpointing (expected: 0.0)",
            probe=self.probe,
            repair=self.repair,
            canary=self.canary,
        )


def _place(layer: Any) -> int | None:
    """At which position a layer takes the cache."""
    names = [*inspect.signature(layer.forward).parameters][1:]
    return next((names.index(name) for name in CACHE if name in names), None)


def passed(kind: Any, layer: Any, name: str) -> Verdict:
    """How an encoder passes a cache on to its layer."""
    import torch

    seen: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    class Recording(layer):  # type: ignore[misc]
        def forward(self, hidden_states: Any, *args: Any, **kwargs: Any) -> Any:
            seen.append((args, kwargs))
            return hidden_states

    encoder, cache = _bare(kind), SimpleNamespace(get_seq_length=lambda: 0)
    encoder.layer = [_bare(Recording)]
    encoder.config = SimpleNamespace(add_cross_attention=False)
    encoder.gradient_checkpointing = True
    hidden = torch.zeros(1, 1, 1)
    encoder.embed_positions = lambda *_: hidden[0]
    with torch.enable_grad():
        encoder.forward(hidden, **{name: cache})
    args, kwargs = seen[0] if seen else ((), {})
    if any(one is cache for one in args):
        return Verdict.AFFECTED
    return Verdict.FIXED if any(one is cache for one in kwargs.values()) else Verdict.UNKNOWN


def _bare(kind: Any) -> Any:
    """A module without weights."""
    from torch.nn import Module

    made = kind.__new__(kind)
    Module.__init__(made)
    return made


def by_keyword(original: Call, names: list[str], place: int | None) -> Call:
    """Call a layer in training with the cache, and what comes after it, by keyword.

    Without gradients nothing is computed again, and ``generate`` in train mode needs its cache.
    """
    from torch import is_grad_enabled

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.training and is_grad_enabled():
            kwargs = dict(zip(names[place:], args[place:], strict=False)) | kwargs
            args = args[:place]
        return original(self, *args, **kwargs)

    return call


def step(make: Call, checkpointing: dict[str, Any] | None = None, model: Any = None) -> tuple[float, Any]:
    """Loss and gradients of one step in training, with the loss outside the model."""
    import torch

    small, more = make()
    model = (model or small).train()
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    if checkpointing is not None:
        model.gradient_checkpointing_enable(checkpointing)
    ids = _tiny.prompt()
    logits = model(ids, **more).logits[0, -ids.shape[1] :]
    loss = torch.nn.functional.cross_entropy(logits, ids[0])
    loss.backward()
    grads = [parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None]
    return float(loss.detach()), torch.cat(grads)
