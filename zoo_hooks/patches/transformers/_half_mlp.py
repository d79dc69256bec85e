"""Shared by the patches of gated MLPs: ``down_proj(act(gate) * up)`` that holds in float16.

``down_proj`` may be anything that is linear and has no bias: quantised, or with adapters. Its
weight is not looked at.
"""

from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import Any

from zoo_hooks.model import Figure, Verdict

LARGEST = 65504.0
GATE_PART, UP_PART = 2.0**-9, 2.0**-8
"""Factors under which no product overflows, and none near the border becomes subnormal."""
OVERFLOW = 2.0 ** (16 - 17)
"""What a product is with both factors when without them it is infinite, or more."""
HEADROOM = 2.0 ** (14 - 17)
"""The largest scaled product lies in [2**14, 2**15): a factor of two or more below the border. The
least scale that does, for gradients are multiplied by its inverse on their way to down_proj."""
EXPONENT = 0x7C00
HEALTHY = 0.002


def limited(values: Any) -> Any:
    """Infinity becomes the largest number of float16; NaN stays."""
    return values.clamp(-LARGEST, LARGEST)


def down(mlp: Any, gate: Any, up: Any) -> Any:
    """``mlp.down_proj(gate * up)`` of float16 tensors.

    Tokens whose products fit are computed as upstream does it, bit for bit. The products of the
    others are scaled by a power of two, a token at a time, and what comes out of ``down_proj`` is
    scaled back in float32. No value decides which code runs: it compiles to one graph, and the
    device is not waited for.
    """
    up = limited(up)
    clips = getattr(mlp.down_proj, "use_clipped_linears", False)
    if clips or up.shape[-1] != getattr(mlp, "intermediate_size", up.shape[-1]):
        # A projection that clips what it is given must be given that, and is bounded by it. Under tensor
        # parallelism outputs are summed over the ranks, so none may scale by what it alone sees.
        return limited(mlp.down_proj(limited(gate * up)))
    product, scale = scaled(gate, up)
    return unscaled(mlp.down_proj(product), scale)


def scaled(gate: Any, up: Any) -> tuple[Any, Any]:
    """The products of each token times a power of two, and that: 1 where they all fit."""
    reach = ((gate.detach() * GATE_PART) * (up.detach() * UP_PART)).abs().amax(-1, keepdim=True)
    # of NaN too the scale is 1: it stays what it is, and what lies in rows that are not used does no harm
    scale = (HEADROOM / power_of_two(reach)).masked_fill(~(reach >= OVERFLOW), 1.0)
    return (gate * scale) * up, scale


def unscaled(result: Any, scale: Any) -> Any:
    """What a linear layer made of scaled products, without the scale."""
    return limited(result.float() / scale.float()).to(result.dtype)


def power_of_two(values: Any) -> Any:
    """The largest that is not above each of these positive float16 values: they lose the mantissa."""
    import torch

    return (values.view(torch.int16) & EXPONENT).view(torch.float16)


def verdict(module: ModuleType, mlp: str, *before: float) -> Verdict:
    """Run the MLP's forward on stand-ins for its parts, with a product of 2**18 and an output of 2**15.

    ``before`` are what it takes before the states; norms around it are left out.
    """
    import torch

    half = {"dtype": torch.float16, "device": "cpu"}
    calls: list[tuple[str, Any]] = []

    def part(name: str, value: float | None) -> Any:
        def call(given: Any) -> Any:
            calls.append((name, given))
            return given * 0.125 if value is None else torch.full((1, 1), value, **half)

        return call

    parts = {"gate_proj": 512.0, "act_fn": 512.0, "up_proj": 512.0, "down_proj": None}
    stand_in = SimpleNamespace(**{name: part(name, parts[name]) for name in parts})
    stand_in.intermediate_size, stand_in.activation_sparsity = 1, 0.0
    stand_in.pre_norm = stand_in.post_norm = lambda states: states
    given = [torch.full((1, 1), value, **half) for value in (*before, 3.0)]
    result = getattr(module, mlp).forward(stand_in, *given).item()
    if sorted(name for name, _ in calls) != sorted(parts):
        return Verdict.UNKNOWN
    right = {float("inf"): Verdict.AFFECTED, 2.0**15: Verdict.FIXED}
    return right.get(result, Verdict.UNKNOWN)


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
