"""Gemma-4's experts overflow float16, so the model generates noise, and its loss becomes NaN.

Symptom
-------
Gemma-4 26B-A4B in float16, also under float16 autocast, generates noise or stops with a CUDA assertion. In
training, the loss or gradients become NaN. This happens with every ``experts_implementation``. bfloat16
gives correct results. DiffusionGemma's experts have the same bug.

Cause
-----
``Gemma4TextExperts`` and ``DiffusionGemmaTextExperts`` compute ``act_fn(gate) * up`` for each token and
expert, in the dtype of their input. They do so in ``forward`` or, for ``batched_mm`` and ``grouped_mm``, in
``_apply_gate``. Two factors of 300 give 90000, which overflows float16, although the expert's output often
would fit.

Repair
------
The repair works like the one for the MLPs (``gemma4-mlp-fp16``). If a float16 product of a token and an
expert overflows, all products of that pair are scaled by a power of two before the expert's ``down_proj``.
Its output is scaled back before the routing weights are applied. All other products, and other dtypes, are
computed as before. Expert parallelism and tensor parallelism are covered.

Values that overflow by themselves stay infinite or NaN, as without the repair: projections before the
product, and outputs before and after they are weighted. The repair leaves some experts to upstream: those
with an implementation other than ``eager``, ``batched_mm`` and ``grouped_mm``, those with biases, and those
with their own gate.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches import _calls, _known
from zoo_hooks.patches.transformers import _half_experts, _half_mlp, _tiny

WAYS = ("batched_mm", "grouped_mm")
SIZE = 8
"""Rows of the probe are as long as grouped multiplication wants them."""
KNOWN = {
    "50fa962f4c50": Verdict.AFFECTED,  # 5.5.0 to 5.5.4
    "253cf6cf5e31": Verdict.AFFECTED,  # 5.8.1 to 5.9.0
    "61aa4f559af8": Verdict.AFFECTED,  # 5.10.1 to 5.16.1
    "cfc6868716ef": Verdict.AFFECTED,  # 5.12.1 to 5.16.1, DiffusionGemma
    "4d546a1aa030": Verdict.AFFECTED,  # 5.17.0
    "8923a317cb14": Verdict.AFFECTED,  # 5.17.0, DiffusionGemma
    "bb80621d2401": Verdict.AFFECTED,  # 5.18.0 to 5.19.0
    "3392aff961d5": Verdict.AFFECTED,  # 5.18.0 to 5.19.0, DiffusionGemma
    "3861b484d8f7": Verdict.AFFECTED,  # 5.20.0 to 5.22.2
    "a1912fcdc0f7": Verdict.AFFECTED,  # 5.20.0 to 5.22.2, DiffusionGemma
    "9e9ae952f813": Verdict.AFFECTED,  # 5.23.0 to 5.24.0
    "11301fbf9224": Verdict.AFFECTED,  # 5.23.0 to 5.24.0, DiffusionGemma
}


def probe(module: ModuleType) -> Verdict:
    return _known.verdict(KNOWN, *_parts(module), repaired=3) or _run(module)


def _parts(module: ModuleType) -> list[Any]:
    """What the verdict depends on: first what the repair wraps."""
    from transformers.integrations import moe

    kind, ways = _half_mlp.experts(module), moe.ALL_EXPERTS_FUNCTIONS
    wrapped = [kind.forward, moe._batched_linear, moe._grouped_linear]  # noqa: SLF001
    return [*wrapped, *(ways.get_interface(way, None) for way in WAYS), kind._apply_gate, kind.__init__]  # noqa: SLF001


def _run(module: ModuleType) -> Verdict:
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
    products = {"linear": _linear, "bmm": _product, "grouped_mm": _product, "_grouped_mm": _product}
    with _calls.in_place_of_torchs(**products):
        for config.way in ways:
            values = {*experts(*given)[0].tolist()}
            seen.append(values.pop() if len(values) == 1 else 0.0)
    if {*asked} != {*ways}:
        return Verdict.UNKNOWN
    if float("inf") in seen and not _half_mlp.is_upstreams(type(experts).forward):
        return Verdict.UNKNOWN
    right = {float("inf"): Verdict.AFFECTED, 2.0**15: Verdict.FIXED}
    verdicts = [right.get(value, Verdict.UNKNOWN) for value in seen]
    return next((one for one in (Verdict.UNKNOWN, Verdict.AFFECTED) if one in verdicts), Verdict.FIXED)


def _product(states: Any, weight: Any, **_: Any) -> Any:
    """Of one token and one expert."""
    return (states.unsqueeze(-1) * weight).sum(-2)


def _linear(states: Any, weight: Any) -> Any:
    return _product(states, weight.transpose(-2, -1))


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
            ) and _half_experts.is_known(self):
                experts = _half_experts.Experts(self)
            return original(experts, hidden_states, top_k_index, top_k_weights)

        return forward

    changes.wrap(_half_mlp.experts(module), "forward", make)
    for name in ("_batched_linear", "_grouped_linear"):
        if getattr(moe, name).__code__ is not _half_experts.SCALING:  # both targets need it, once
            changes.wrap(moe, name, _half_experts.linear_of)


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
    severity="silent wrong result",
    targets=(
        "transformers.models.gemma4.modeling_gemma4",
        "transformers.models.diffusion_gemma.modeling_diffusion_gemma",
    ),
    affects=("transformers>=5.5.0",),
    links=(
        "https://github.com/huggingface/transformers/blob/v5.5.0/src/transformers/models/gemma4/modeling_gemma4.py#L1274-L1276",
        "https://github.com/huggingface/transformers/issues/36822",
    ),
    measures="relative error of experts in float16 against float32, products of 10**5 (expected: < 0.002)",
    probe=probe,
    repair=repair,
    canary=canary,
)
