"""Gemma-4's MLPs overflow float16, so the model generates noise, and its loss becomes NaN.

Symptom
-------
Gemma-4 in float16, also under float16 autocast, generates noise or stops with a CUDA assertion. In
training, the loss or gradients become NaN within a few steps. Images can become NaN too in 26B-A4B and 31B,
whose vision towers do not clip. bfloat16 gives correct results. DiffusionGemma overflows in the same way:
it has the same text MLPs, and one more for self-conditioning.

Cause
-----
``Gemma4TextMLP.forward`` and ``Gemma4VisionMLP.forward`` compute ``down_proj(act_fn(gate) * up)`` in the
dtype of their input. Two factors of 300 give 90000, which overflows float16, although the output often
would fit.

Repair
------
If a float16 product of a token overflows, all products of that token are scaled by a power of two before
``down_proj``, and the output is scaled back. Other tokens and other dtypes are computed as before. Nothing
more is kept for the backward pass.

Two kinds of values stay infinite or NaN, as without the repair, because any number in their place would be
silently wrong. The first kind overflows by itself: an output, or a projection before the product. The
second kind overflows before a ``down_proj`` that is not known to be linear.

Layers of torch and of bitsandbytes are known to be linear, and so is LoRA on them, also with DoRA. This
does not hold if the layer or a part of it has a bias, a hook or its own forward. Examples are an adapter
with ``lora_bias``, and tensor parallelism.

The vision towers of E2B and E4B are not affected, because they clip the input of ``down_proj``.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches.transformers import _half_mlp, _tiny

MLPS = ("Gemma4TextMLP", "Gemma4VisionMLP", "Gemma4UnifiedTextMLP", "DiffusionGemmaText4MLP")
CONDITIONING = "DiffusionGemmaSelfConditioning"


def probe(module: ModuleType) -> Verdict:
    verdicts = _verdicts(module).values()
    return next((one for one in (Verdict.UNKNOWN, Verdict.AFFECTED) if one in verdicts), Verdict.FIXED)


def repair(module: ModuleType, changes: Changes) -> None:
    down = _half_mlp.down

    def make(_: Callable[..., Any]) -> Callable[..., Any]:
        # Takes its place: the product stands in the middle of its one line, which the probe has seen.
        def forward(self: Any, x: Any) -> Any:
            return down(self.down_proj, self.act_fn(self.gate_proj(x)), self.up_proj(x))

        return forward

    def make_conditioning(_: Callable[..., Any]) -> Callable[..., Any]:
        def forward(self: Any, inputs_embeds: Any, self_conditioning_signal: Any) -> Any:
            normed = self.pre_norm(self_conditioning_signal)
            signal = down(self.down_proj, self.act_fn(self.gate_proj(normed)), self.up_proj(normed))
            return self.post_norm(inputs_embeds + signal)

        return forward

    for name, verdict in _verdicts(module, anyones=True).items():  # of others only if activate() asks
        if verdict is Verdict.AFFECTED:
            kind = make_conditioning if name == CONDITIONING else make
            changes.wrap(getattr(module, name), "forward", kind)


def _verdicts(module: ModuleType, *, anyones: bool = False) -> dict[str, Verdict]:
    before = dict.fromkeys(MLPS, ()) | {CONDITIONING: (0.0,)}
    return {
        name: _half_mlp.verdict(module, name, *given, anyones=anyones)
        for name, given in before.items()
        if hasattr(module, name)
    }


def canary() -> Figure:
    return _half_mlp.figure(_tiny.shared_model().model.layers[0].mlp)


PATCH = Patch(
    module=__name__,
    title="Gemma-4's text and vision MLPs overflow float16",
    severity="silent wrong result",
    targets=(
        "transformers.models.gemma4.modeling_gemma4",
        "transformers.models.gemma4_unified.modeling_gemma4_unified",
        "transformers.models.diffusion_gemma.modeling_diffusion_gemma",
    ),
    affects=("transformers>=5.5.0",),
    links=(
        "https://github.com/unslothai/unsloth-zoo/pull/600",
        "https://github.com/huggingface/transformers/issues/36822",
    ),
    measures="relative error of the MLP in float16 against float32, products of 10**5 (expected: < 0.002)",
    probe=probe,
    repair=repair,
    canary=canary,
)
