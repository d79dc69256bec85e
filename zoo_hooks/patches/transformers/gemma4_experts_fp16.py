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
from zoo_hooks.patches.transformers._linear_map import is_plain

WAYS = ("batched_mm", "grouped_mm")
SIZE = 8
"""Rows of the probe are as long as grouped multiplication wants them."""


def probe(module: ModuleType) -> Verdict:
    """Products of 2**18 and outputs of 2**15, each way."""
    import torch

    # Those of torch that have it only as a private function have it only for CUDA.
    grouped = hasattr(torch.nn.functional, "grouped_mm") or not hasattr(torch, "_grouped_mm")
    ways = ("eager", *WAYS[: 1 + grouped])
    asked = []

    class Config(SimpleNamespace):
        @property
        def _experts_implementation(self) -> str:
            asked.append(self.way)
            return str(self.way)

    def full(value: float, *shape: int) -> Any:
        return torch.full(shape, value, dtype=torch.float16, device="cpu")

    config = Config(num_experts=1, hidden_size=SIZE, moe_intermediate_size=SIZE, hidden_activation="relu")
    experts = _half_mlp.experts(module)(config)
    experts.gate_up_proj = torch.nn.Parameter(full(512 / SIZE, 1, 2 * SIZE, SIZE), requires_grad=False)
    experts.down_proj = torch.nn.Parameter(full(0.125 / SIZE, 1, SIZE, SIZE), requires_grad=False)
    given = full(1.0, 1, SIZE), torch.zeros((1, 1), dtype=torch.int64, device="cpu"), full(1.0, 1, 1)
    seen = []
    for config.way in ways:
        least, most = experts(*given).aminmax()
        seen.append(least.item() if least == most else 0.0)
    if {*asked} != {*ways}:
        return Verdict.UNKNOWN
    right = {float("inf"): Verdict.AFFECTED, 2.0**15: Verdict.FIXED}
    verdicts = [right.get(value, Verdict.UNKNOWN) for value in seen]
    return next((one for one in (Verdict.UNKNOWN, Verdict.AFFECTED) if one in verdicts), Verdict.FIXED)


class _Experts:
    """Experts that compute what upstream does, but scale the products that do not fit."""

    def __init__(self, experts: Any) -> None:
        self._experts = experts

    def __getattr__(self, name: str) -> Any:
        return getattr(self._experts, name)

    def act_fn(self, gate: Any) -> Any:
        return _Gate(self._experts.act_fn(gate))

    def _apply_gate(self, gate_up_out: Any) -> Any:
        gate, up = gate_up_out.chunk(2, dim=-1)
        return _product(self._experts.act_fn(gate), up)


class _Gate:
    """What multiplies ``up`` where upstream says ``act_fn(gate) * up``."""

    def __init__(self, states: Any) -> None:
        self.states = states

    def __mul__(self, up: Any) -> Any:
        return _product(self.states, up)


class _Scaled:
    """Products times a scale, until a linear function is applied to them."""

    def __init__(self, states: Any, scale: Any) -> None:
        self.states, self.scale = states, scale

    @classmethod
    def __torch_function__(cls, function: Any, _: Any, args: Any, kwargs: Any = None) -> Any:
        return _linear(function)(*args, **kwargs or {})


def _product(gate: Any, up: Any) -> Any:
    import torch

    if gate.dtype is not torch.float16:
        return gate * up
    scale = _half_mlp.scale_of(gate, up)
    return _Scaled(gate * scale * up, scale)


def _linear(original: Callable[..., Any]) -> Callable[..., Any]:
    def linear(input: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: A002 - its name upstream
        if type(input) is _Scaled:
            return original(input.states, *args, **kwargs) / input.scale
        return original(input, *args, **kwargs)

    return linear


_SCALING = _linear(lambda: None).__code__


def _is_known(experts: Any) -> bool:
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
        and moe._batched_linear.__code__ is _SCALING  # noqa: SLF001
        and moe._grouped_linear.__code__ is _SCALING  # noqa: SLF001
    )


def repair(module: ModuleType, changes: Changes) -> None:
    import torch
    from transformers.integrations import moe

    half, autocast = torch.float16, torch.is_autocast_enabled
    autocasts, autocast_dtype = torch.amp.is_autocast_available, torch.get_autocast_dtype

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def forward(self: Any, hidden_states: Any, top_k_index: Any, top_k_weights: Any) -> Any:
            experts, kind = self, hidden_states.device.type
            if (
                hidden_states.dtype is half
                or (autocasts(kind) and autocast(kind) and autocast_dtype(kind) is half)
            ) and _is_known(self):
                experts = _Experts(self)
            return original(experts, hidden_states, top_k_index, top_k_weights)

        return forward

    changes.wrap(_half_mlp.experts(module), "forward", make)
    for name in ("_batched_linear", "_grouped_linear"):
        if getattr(moe, name).__code__ is not _SCALING:  # both targets need it, once
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
