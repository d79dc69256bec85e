"""Shared by the patches of gated MLPs: computes ``down_proj(act(gate) * up)`` in float16 without overflow.

In two cases the result is that of upstream, even if it is infinite or NaN: ``down_proj`` is not known to be
linear, or something other than the product overflows.
"""

from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import Any

from zoo_hooks.model import Figure, Verdict
from zoo_hooks.patches import _known
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
KNOWN = {
    "534efe59e24d": Verdict.AFFECTED,  # 4.50.0 to 5.24.0
    "8b592ff05afb": Verdict.AFFECTED,  # 4.53.0 to 5.24.0
    "62537e36ff20": Verdict.AFFECTED,  # 5.12.1 to 5.24.0, DiffusionGemma
}


def down(layer: Any, gate: Any, up: Any) -> Any:
    """Compute ``layer(gate * up)``, where ``layer`` is a ``down_proj``.

    In float16, if a product of a token overflows, all products of this token are scaled by a power of two.
    The output of the layer is scaled by the inverse. The scale of all other tokens is 1. No branch depends on
    the values of a tensor, so the function compiles to one graph and does not wait for the device.
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
    """The scale of each token, chosen by the largest of its products."""
    import torch

    products = torch.addcmul(gate.new_zeros(()), gate.detach(), up.detach(), value=PART)
    largest = products.abs_().amax(-1, keepdim=True)
    fits = largest < OVERFLOW
    scale = torch.pow(0.5, largest.log2_().floor_())
    return scale.clamp_(LEAST).masked_fill_(fits, 1.0)


def verdict(module: ModuleType, mlp: str, *before: float, anyones: bool = False) -> Verdict:
    """Run the MLP's forward on stand-ins for its parts, with a product of 2**18 and an output of 2**15.

    ``before`` are the arguments that the forward takes before the hidden states. The norms around the MLP do
    nothing here. A third-party forward that has the bug is UNKNOWN, because the repair would replace it. With
    ``anyones`` it is AFFECTED, and it need not call ``act_fn``.
    """
    forward = getattr(module, mlp).forward
    if known := _known.verdict(KNOWN, forward):
        return known

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
    """Whether a function is transformers' own, not a replacement that the repair would remove."""
    return bool(function.__globals__["__name__"].partition(".")[0] == "transformers")


def experts(module: ModuleType) -> Any:
    """The class of experts in a modeling module of the Gemma-4 family."""
    return getattr(module, "Gemma4TextExperts", None) or module.DiffusionGemmaTextExperts


def figure(mlp: Any) -> Figure:
    """Canary: the error in float16, relative to float32, of an MLP whose weights make its products large."""
    import torch

    for layer in (mlp.gate_proj, mlp.up_proj):
        layer.weight.data *= 1000
    states = torch.linspace(-3, 3, 8 * 32).reshape(8, 32)
    with torch.no_grad():
        expected = mlp(states)
        error = (mlp.half()(states.half()).float() - expected).norm() / expected.norm()
    return Figure(round(float(error), 5), healthy=bool(error < HEALTHY))
