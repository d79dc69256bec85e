"""Shared by the patches of gated MLPs: ``down_proj(act(gate) * up)`` that holds in float16.

Where the repair cannot be right, for ``down_proj`` is not known to be linear or what does not fit is not the
product, it computes what upstream does, infinite and NaN as that may be.
"""

from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import Any

from zoo_hooks.model import Figure, Verdict
from zoo_hooks.patches.transformers._linear_map import is_linear, is_plain

PART = 2.0**-14
"""Factor under which products are measured. Of those that do not fit none becomes subnormal, and the largest
of a token, divided by the power of two below this measure of it, lies in [2**14, 2**15): a factor of two or
more below the border. The least scale that does, for gradients are multiplied by its inverse on their way to
the layer."""
OVERFLOW = 2.0**16 * PART
LEAST = 2.0**-17
"""The scale where even the measure is infinite: products are below 2**32."""
HEALTHY = 0.002


def down(layer: Any, gate: Any, up: Any) -> Any:
    """``layer(gate * up)``, where ``layer`` is a ``down_proj``.

    In float16 the products of a token of which one does not fit are scaled by a power of two, and so is what
    comes out of the layer by its inverse. The factors of all other tokens are 1. No value decides which code
    runs: it compiles to one graph, and the device is not waited for.
    """
    import torch

    scale, half = None, torch.float16
    if gate.dtype is half and up.dtype is half and is_plain(gate) and is_plain(up) and is_linear(layer):
        scale = scale_of(gate, up)
        gate = gate * scale
    product = gate * up
    del gate, up  # upstream does not keep them while the layer runs
    return layer(product) if scale is None else layer(product) / scale


def scale_of(gate: Any, up: Any) -> Any:
    """The factor of each token, by the largest of its products."""
    import torch

    products = torch.addcmul(gate.new_zeros(()), gate.detach(), up.detach(), value=PART)
    largest = products.abs_().amax(-1, keepdim=True)
    fits = largest < OVERFLOW
    scale = torch.pow(0.5, largest.log2_().floor_())
    return scale.clamp_(LEAST).masked_fill_(fits, 1.0)


def verdict(module: ModuleType, mlp: str, *before: float, anyones: bool = False) -> Verdict:
    """Run the MLP's forward on stand-ins for its parts, with a product of 2**18 and an output of 2**15.

    ``before`` are what it takes before the states; norms around it are left out. A forward of others that has
    the bug is UNKNOWN, for it would be lost, unless ``anyones``, which may have the activation in itself.
    """
    import torch

    half = {"dtype": torch.float16, "device": "cpu"}
    linear = torch.nn.Linear(1, 1, bias=False, device="meta")  # there it draws no random numbers
    linear.weight = torch.nn.Parameter(torch.full((1, 1), 0.125, **half), requires_grad=False)
    calls = []

    def part(name: str) -> Any:
        def call(_: Any) -> Any:
            calls.append(name)
            return torch.full((1, 1), 512.0, **half)

        return call

    class Parts(SimpleNamespace):
        @property
        def down_proj(self) -> Any:
            calls.append("down_proj")
            return linear

    names = ("gate_proj", "act_fn", "up_proj")
    parts = Parts(**{name: part(name) for name in names}, activation_sparsity=0.0)
    parts.pre_norm = parts.post_norm = lambda states: states
    given = [torch.full((1, 1), value, **half) for value in (*before, 3.0)]
    forward = getattr(module, mlp).forward
    result = forward(parts, *given).item()
    if anyones and "act_fn" not in calls:
        calls.append("act_fn")
    if sorted(calls) != sorted((*names, "down_proj")):
        return Verdict.UNKNOWN
    if result == float("inf") and not (anyones or is_upstreams(forward)):
        return Verdict.UNKNOWN
    right = {float("inf"): Verdict.AFFECTED, 2.0**15: Verdict.FIXED}
    return right.get(result, Verdict.UNKNOWN)


def is_upstreams(function: Any) -> bool:
    """Whether nobody has put another in its place, which would be lost, or given what it does not know."""
    return bool(function.__globals__["__name__"].partition(".")[0] == "transformers")


def experts(module: ModuleType) -> Any:
    """The class of experts that a module of the family has."""
    return getattr(module, "Gemma4TextExperts", None) or module.DiffusionGemmaTextExperts


def figure(mlp: Any) -> Figure:
    """Canary: the error in float16, relative to float32, of an MLP whose products are made large."""
    import torch

    for layer in (mlp.gate_proj, mlp.up_proj):
        layer.weight.data *= 1000
    states = torch.linspace(-3, 3, 8 * 32).reshape(8, 32)
    with torch.no_grad():
        expected = mlp(states)
        error = (mlp.half()(states.half()).float() - expected).norm() / expected.norm()
    return Figure(round(float(error), 5), healthy=bool(error < HEALTHY))
