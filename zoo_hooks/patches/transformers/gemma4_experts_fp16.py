"""Gemma-4's experts overflow float16 between their projections.

Symptom
-------
Gemma-4 26B-A4B in float16, also under float16 autocast, generates noise or stops with a CUDA assertion,
and in training loss or gradients become NaN, whichever ``experts_implementation`` it has. bfloat16 is
right. DiffusionGemma's experts are the same.

Cause
-----
``Gemma4TextExperts`` and ``DiffusionGemmaTextExperts`` compute ``act_fn(gate) * up`` for each token and
expert in the dtype of its input, in ``forward`` or, for ``batched_mm`` and ``grouped_mm``, in
``_apply_gate``. Two factors of 300 give 90000, which does not fit float16, although the expert's output
often would.

Repair
------
As that of the MLPs (``gemma4-mlp-fp16``): in float16 the products of a token and an expert of which one
does not fit are scaled by a power of two before that expert's ``down_proj``, and its output is scaled back
in float32, before routing weights are applied. What does not fit even so saturates at 65504. All else, and
other dtypes, are computed as before; with routing weights in float16 of which one is above 1, results
below 2**-14 times that weight may be rounded otherwise. Expert parallelism is covered. With tensor
parallelism, where no rank sees all products of an expert, these saturate instead of being scaled. Not
covered are implementations other than ``eager``, ``batched_mm`` and ``grouped_mm``.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches.transformers import _half_mlp, _tiny

WAYS = ("batched_mm", "grouped_mm")
SIZE = 8
"""Rows of the probe are as long as grouped multiplication wants them."""


def probe(module: ModuleType) -> Verdict:
    import torch

    # Those of torch that have it only as a private function have it only for CUDA.
    grouped = hasattr(torch.nn.functional, "grouped_mm") or not hasattr(torch, "_grouped_mm")
    verdicts = [_verdict(module, way) for way in ("eager", *WAYS[: 1 + grouped])]
    return next((one for one in (Verdict.UNKNOWN, Verdict.AFFECTED) if one in verdicts), Verdict.FIXED)


def _verdict(module: ModuleType, way: str) -> Verdict:
    """Products of 2**18 and outputs of 2**15."""
    import torch

    asked = []

    class Config(SimpleNamespace):
        @property
        def _experts_implementation(self) -> str:
            asked.append(way)
            return way

    half = {"dtype": torch.float16, "device": "cpu"}
    with torch.device("cpu"), torch.no_grad():
        config = Config(num_experts=1, hidden_size=SIZE, moe_intermediate_size=SIZE, hidden_activation="relu")
        experts = _half_mlp.experts(module)(config).half()
        experts.gate_up_proj.fill_(512 / SIZE)
        experts.down_proj.fill_(0.125 / SIZE)
        result = experts(
            torch.ones(1, SIZE, **half), torch.zeros(1, 1, dtype=torch.int64), torch.ones(1, 1, **half)
        )
    if not asked or result.unique().numel() != 1:
        return Verdict.UNKNOWN
    right = {float("inf"): Verdict.AFFECTED, 2.0**15: Verdict.FIXED}
    return right.get(result[0, 0].item(), Verdict.UNKNOWN)


class _Experts:
    """Experts whose products come with their scale."""

    def __init__(self, experts: Any) -> None:
        self._experts = experts

    def __getattr__(self, name: str) -> Any:
        return getattr(self._experts, name)

    def _apply_gate(self, gate_up_out: Any) -> Any:
        import torch

        gate, up = gate_up_out.chunk(2, dim=-1)
        if gate.dtype is not torch.float16:
            return self.act_fn(gate) * up
        gate, up = self.act_fn(_half_mlp.limited(gate)), _half_mlp.limited(up)
        if up.shape[-1] != self.intermediate_dim:
            # Under tensor parallelism outputs are summed over the ranks, so none may choose a scale.
            return _half_mlp.limited(gate * up), gate.new_ones(())
        return _half_mlp.scaled(gate, up)


def _linear(original: Callable[..., Any]) -> Callable[..., Any]:
    def linear(input: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: A002 - its name upstream
        if type(input) is tuple:  # from _Experts
            return _half_mlp.unscaled(original(input[0], *args, **kwargs), input[1])
        return original(input, *args, **kwargs)

    return linear


def _eager(experts: Any, hidden_states: Any, top_k_index: Any, top_k_weights: Any) -> Any:
    """An expert at a time, rows in upstream's order, for the sake of the rounding."""
    import torch

    plain = torch.nn.functional.linear
    result = torch.zeros_like(hidden_states)
    for expert in top_k_index.unique().tolist():
        if expert < experts.num_experts:  # not on another rank
            slot, token = torch.where(torch.eq(top_k_index.T, expert))
            given = plain(hidden_states[token], experts.gate_up_proj[expert])
            states = _linear(plain)(experts._apply_gate(given), experts.down_proj[expert])  # noqa: SLF001
            states = states * top_k_weights[token, slot, None]
            states = states.to(result.dtype)
            if states.dtype is torch.float16:
                states = _half_mlp.limited(states)
            result.index_add_(0, token, states)
    return result


def repair(module: ModuleType, changes: Changes) -> None:
    import torch
    from transformers.integrations import moe

    half, limited = torch.float16, _half_mlp.limited
    chosen = moe.ALL_EXPERTS_FUNCTIONS.get_interface
    known = (_eager, moe.batched_mm_experts_forward, moe.grouped_mm_experts_forward)

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def forward(self: Any, hidden_states: Any, top_k_index: Any, top_k_weights: Any) -> Any:
            kind = hidden_states.device.type
            run = None
            if hidden_states.dtype is half or (
                torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) is half
            ):
                run = chosen(self.config._experts_implementation, _eager)  # noqa: SLF001
            if run not in known:
                return original(self, hidden_states, top_k_index, top_k_weights)
            if top_k_weights.dtype is not half:
                result = run(_Experts(self), hidden_states, top_k_index, top_k_weights)
                return limited(result) if result.dtype is half else result
            # Weights above 1 could make two experts' outputs opposite infinities, whose sum is NaN.
            most = top_k_weights.detach().abs().amax(-1, keepdim=True)
            share = (0.5 / _half_mlp.power_of_two(most)).masked_fill(~(most > 1), 1.0)
            result = run(_Experts(self), hidden_states, top_k_index, top_k_weights * share)
            return _half_mlp.unscaled(result, share)

        return forward

    changes.wrap(_half_mlp.experts(module), "forward", make)
    for name in ("_batched_linear", "_grouped_linear"):
        if getattr(moe, name).__code__ not in _linear.__code__.co_consts:  # both targets need it, once
            changes.wrap(moe, name, _linear)


def canary() -> Figure:
    """The largest error of the three implementations."""
    import torch

    experts = _tiny.unshared_model(**_tiny.EXPERTS).model.layers[0].experts
    experts.gate_up_proj.data *= 1000
    states = torch.linspace(-3, 3, 8 * 32).reshape(8, 32)
    chosen = torch.arange(16).reshape(8, 2) % 4, torch.full((8, 2), 0.5)
    figures = []
    with torch.no_grad():
        expected = experts(states, *chosen)
        experts.half()
        for way in ("eager", *WAYS):
            experts.config._experts_implementation = way  # noqa: SLF001
            error = (experts(states.half(), *chosen).float() - expected).norm() / expected.norm()
            figures.append(Figure(round(float(error), 5), healthy=bool(error < _half_mlp.HEALTHY)))
    return next((figure for figure in figures if not figure.healthy), max(figures, key=lambda f: f.value))


PATCH = Patch(
    module=__name__,
    title="Gemma-4's experts overflow float16",
    targets=(
        "transformers.models.gemma4.modeling_gemma4",
        "transformers.models.diffusion_gemma.modeling_diffusion_gemma",
    ),
    affects=("transformers>=5.5.0",),
    links=(
        "https://github.com/huggingface/transformers/blob/v5.5.0/src/transformers/models/gemma4/modeling_gemma4.py#L1274-L1276",
        "https://github.com/huggingface/transformers/issues/36822",
    ),
    measures="relative error of the experts in float16 against float32, products of 10**5 (right: < 0.002)",
    probe=probe,
    repair=repair,
    canary=canary,
)
