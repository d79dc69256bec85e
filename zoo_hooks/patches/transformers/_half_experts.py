"""Shared by the patches of experts: products carry a scale, which the next linear function undoes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zoo_hooks.patches.transformers._half_mlp import scale_of
from zoo_hooks.patches.transformers._linear_map import is_plain


class Experts:
    """Experts that compute what upstream does, but scale the products that do not fit."""

    def __init__(self, experts: Any) -> None:
        self._experts = experts

    def __getattr__(self, name: str) -> Any:
        return getattr(self._experts, name)

    def act_fn(self, gate: Any) -> Any:
        return Gate(self._experts.act_fn(gate))

    def _apply_gate(self, gate_up_out: Any) -> Any:
        gate, up = gate_up_out.chunk(2, dim=-1)
        return product_of(self._experts.act_fn(gate), up)


class Gate:
    """What multiplies ``up`` where upstream says ``act_fn(gate) * up``."""

    def __init__(self, states: Any) -> None:
        self.states = states

    def __mul__(self, up: Any) -> Any:
        return product_of(self.states, up)


class Scaled:
    """Products times a scale, until they are multiplied by a weight. To all else they are upstream's."""

    def __init__(self, states: Any, scale: Any) -> None:
        self.states, self.scale = states, scale

    @classmethod
    def __torch_function__(cls, function: Any, _: Any, args: Any, kwargs: Any = None) -> Any:
        import torch

        scaled, *more = args
        if function is torch.nn.functional.linear and len(more) == 1 and not kwargs:
            return linear_of(function)(scaled, *more)
        return function(scaled.states / scaled.scale, *more, **kwargs or {})


def product_of(gate: Any, up: Any) -> Any:
    import torch

    if gate.dtype is not torch.float16:
        return gate * up
    scale = scale_of(gate, up)
    return Scaled(gate * scale * up, scale)


def linear_of(original: Callable[..., Any]) -> Callable[..., Any]:
    def linear(input: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: A002 - its name upstream
        if type(input) is Scaled:
            return original(input.states, *args, **kwargs) / input.scale
        return original(input, *args, **kwargs)

    return linear


SCALING = linear_of(lambda: None).__code__


def is_known(experts: Any) -> bool:
    """Whether nothing that they compute between their projections is other than upstream's."""
    from transformers.integrations import moe

    way = moe.ALL_EXPERTS_FUNCTIONS.get_interface(experts.config._experts_implementation, None)  # noqa: SLF001
    return (
        way in (None, moe.batched_mm_experts_forward, moe.grouped_mm_experts_forward)
        and type(experts)._apply_gate is moe._default_apply_gate  # noqa: SLF001
        and "_apply_gate" not in experts.__dict__
        and not experts.has_bias
        and is_plain(experts.gate_up_proj)
        and is_plain(experts.down_proj)
        # not if this forward was kept by somebody, and the repair has been undone
        and moe._batched_linear.__code__ is SCALING  # noqa: SLF001
        and moe._grouped_linear.__code__ is SCALING  # noqa: SLF001
    )
