"""What the patches share of models that cast to the dtype of a weight, which is of integers once packed.

Packed by bitsandbytes to 4 bits it is of uint8, to 8 bits of int8. That is how it is stored and not what its
layer computes in.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib import import_module
from types import SimpleNamespace
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Verdict
from zoo_hooks.patches.transformers import _packed

HEALTHY = 0.4
"""A relative error above what packing to 4 bits brings by itself, and below that of integers."""


class _Reached(Exception):
    """The layer was called."""


class _Layer:
    def __init__(self) -> None:
        import torch

        self.weight, self.bias = torch.zeros(1, dtype=torch.uint8), None
        self.given: Any = None

    def __call__(self, given: Any) -> Any:
        self.given = given
        raise _Reached


def verdict(kind: Any, name: str, *given: Any, **parts: Any) -> Verdict:
    """What reaches the packed layer ``name`` when the forward of a class runs on stand-ins for its parts."""
    layer = _Layer()
    own = {"wi_0": _same, "wi_1": _same, "act": _same, "dropout": _same}
    with suppress(_Reached):
        kind.forward(SimpleNamespace(**(own | parts | {name: layer})), *given)
    if layer.given is None:
        return Verdict.UNKNOWN
    return Verdict.FIXED if layer.given.dtype.is_floating_point else Verdict.AFFECTED


def _same(states: Any) -> Any:
    return states


def values() -> Any:
    """What is cast to zeros where it should not be cast."""
    import torch

    return torch.full((1, 1), 0.75)


def uncast(changes: Changes, kind: Any, name: str) -> None:
    """Let the forward of a class cast to the dtype that the weight of its layer had before it was packed."""
    changes.wrap(kind, "forward", partial(_uncast, name))


def _uncast(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        layer = getattr(self, name)
        if not layer.weight.dtype.is_floating_point:
            self = _packed._Uncast(self, name, _unpacked(layer, args, kwargs))  # noqa: SLF001 - its neighbour
        return original(self, *args, **kwargs)

    return forward


def _unpacked(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """An empty tensor of the dtype that the weight had: as its quantiser has kept it, or that of the bias.

    Where neither is there it is that of what the forward is given.
    """
    import torch

    kept = getattr(layer.weight, "quant_state", None)
    if kept is None:
        kept = getattr(layer, "bias", None)
    if kept is None:
        given = (*args, *kwargs.values())
        kept = next(one for one in given if isinstance(one, torch.Tensor) and one.is_floating_point())
    return torch.empty(0, dtype=kept.dtype)


def error(model: Any, name: str, run: Callable[[Any], Any]) -> Figure:
    """Canary: how far packing one layer to 4 bits takes what ``run`` makes of a model, relative to it."""
    import torch

    with torch.no_grad():
        expected = run(model)
        where, _, last = name.rpartition(".")
        setattr(model.get_submodule(where), last, _to_four_bits(model.get_submodule(name)))
        off = float((run(model) - expected).norm() / expected.norm())
    return Figure(round(off, 3), healthy=off < HEALTHY)


def _to_four_bits(layer: Any) -> Any:
    """A linear layer as ``from_pretrained`` packs it, which some releases do on a GPU only."""
    nn = import_module("bitsandbytes.nn")
    packed = nn.Linear4bit(layer.in_features, layer.out_features, layer.bias is not None, quant_type="nf4")
    packed.weight = nn.Params4bit(layer.weight.data, requires_grad=False, quant_type="nf4")
    packed.bias = layer.bias
    return packed.requires_grad_(requires_grad=False).to("cpu")
