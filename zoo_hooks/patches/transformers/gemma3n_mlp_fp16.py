"""Gemma-3n's text MLP overflows float16 between its projections.

Symptom
-------
Gemma-3n in float16, also under float16 autocast, generates noise or stops with a CUDA assertion, and
in training loss or gradients become NaN. bfloat16 is right.

Cause
-----
``Gemma3nTextMLP.forward`` computes ``down_proj(act_fn(gate) * up)`` in the dtype of its input. Two
factors of 300 give 90000, which does not fit float16, although the output often would. Where the gate
is made sparse, one infinite value also makes the mean and deviation of its token NaN.

Repair
------
As that of Gemma-4's (``gemma4-mlp-fp16``): in float16 the products of a token of which one does not
fit are scaled by a power of two before ``down_proj``, and its output is scaled back. Other tokens and other
dtypes are computed as before. What does not fit itself stays infinite or NaN, as upstream has it, and so
does what overflows before a ``down_proj`` that is not known to be linear, as with a bias, a hook or tensor
parallelism.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches.transformers import _half_mlp, _tiny


def probe(module: ModuleType) -> Verdict:
    return _half_mlp.verdict(module, "Gemma3nTextMLP")


def repair(module: ModuleType, changes: Changes) -> None:
    down = _half_mlp.down

    def make(_: Callable[..., Any]) -> Callable[..., Any]:
        # Takes its place: the product stands in the middle of the body, which the probe has seen.
        def forward(self: Any, hidden_states: Any) -> Any:
            gate = self.gate_proj(hidden_states)
            if self.activation_sparsity > 0.0:
                gate = self._gaussian_topk(gate)
            return down(self.down_proj, self.act_fn(gate), self.up_proj(hidden_states))

        return forward

    if _half_mlp.verdict(module, "Gemma3nTextMLP", anyones=True) is Verdict.AFFECTED:  # as in Gemma-4
        changes.wrap(module.Gemma3nTextMLP, "forward", make)


def canary() -> Figure:
    return _half_mlp.figure(_tiny.gemma3n_model().model.layers[0].mlp)


PATCH = Patch(
    module=__name__,
    title="Gemma-3n's text MLP overflows float16",
    severity="silent wrong result",
    targets=("transformers.models.gemma3n.modeling_gemma3n",),
    affects=("transformers>=4.53.0",),
    links=(
        "https://github.com/huggingface/transformers/blob/v4.56.2/src/transformers/models/gemma3n/modeling_gemma3n.py#L1026-L1033",
        "https://github.com/huggingface/transformers/issues/36822",
    ),
    measures="relative error of the MLP in float16 against float32, products of 10**5 (expected: < 0.002)",
    probe=probe,
    repair=repair,
    canary=canary,
)
