"""Gemma-3's text MLP overflows float16 between its projections.

Symptom
-------
Gemma-3 in float16, also under float16 autocast, generates noise, and in training loss or gradients become
NaN. bfloat16 is right. EmbeddingGemma, which has the same text model, is concerned as well.

Cause
-----
``Gemma3MLP.forward`` computes ``down_proj(act_fn(gate) * up)`` in the dtype of its input. Two factors of 300
give 90000, which does not fit float16, although the output, which a norm follows, often would.

Repair
------
As that of Gemma-4's (``gemma4-mlp-fp16``): in float16 the products of a token of which one does not fit are
scaled by a power of two before ``down_proj``, and its output is scaled back. Other tokens and other dtypes
are computed as before. What does not fit itself stays infinite or NaN, as upstream has it: an output, hidden
states between the layers, and what overflows before a ``down_proj`` that is not known to be linear, as with
a bias, a hook or tensor parallelism. So this alone need not make all of a model right in float16.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches.transformers import _half_mlp, _tiny


def probe(module: ModuleType) -> Verdict:
    return _half_mlp.verdict(module, "Gemma3MLP")


def repair(module: ModuleType, changes: Changes) -> None:
    down = _half_mlp.down

    def make(_: Callable[..., Any]) -> Callable[..., Any]:
        # Takes its place: the product stands in the middle of its one line, which the probe has seen.
        def forward(self: Any, x: Any) -> Any:
            return down(self.down_proj, self.act_fn(self.gate_proj(x)), self.up_proj(x))

        return forward

    if _half_mlp.verdict(module, "Gemma3MLP", anyones=True) is Verdict.AFFECTED:  # as in Gemma-4
        changes.wrap(module.Gemma3MLP, "forward", make)


def canary() -> Figure:
    import transformers

    config = transformers.Gemma3TextConfig(**_tiny.TEXT, num_hidden_layers=1)
    model = _tiny._seeded(transformers.Gemma3ForCausalLM, config)  # noqa: SLF001 - its neighbour
    return _half_mlp.figure(model.model.layers[0].mlp)


PATCH = Patch(
    module=__name__,
    title="Gemma-3's text MLP overflows float16",
    severity="silent wrong result",
    targets=("transformers.models.gemma3.modeling_gemma3",),
    affects=("transformers>=4.50.0",),
    links=(
        "https://github.com/huggingface/transformers/issues/36822",
        "https://github.com/unslothai/unsloth-zoo/pull/174",
    ),
    measures="relative error of the MLP in float16 against float32, products of 10**5 (expected: < 0.002)",
    probe=probe,
    repair=repair,
    canary=canary,
)
