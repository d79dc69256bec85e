"""Gemma-3n's text MLP overflows float16 between its projections.

Symptom
-------
Gemma-3n generates noise in float16, also under float16 autocast, or stops with a CUDA assertion. In
training, the loss or the gradients become NaN. Results in bfloat16 are correct.

Cause
-----
``Gemma3nTextMLP.forward`` computes ``down_proj(act_fn(gate) * up)`` in the dtype of its input. Two factors
of 300 give 90000, which overflows float16. The output of ``down_proj`` would often be in range. In layers
with a sparse gate, one infinite value also makes the mean and the standard deviation of its token NaN.

Repair
------
The repair is the same as that of Gemma-4 (``gemma4-mlp-fp16``). If a product of a token overflows float16,
all products of this token are scaled by a power of two before ``down_proj``, and its output is scaled back.
Other tokens and other dtypes are computed as before.

Values that overflow elsewhere stay infinite or NaN, as in upstream. So do products before a ``down_proj``
that is not known to be linear, for example because of a bias, a hook or tensor parallelism.
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
