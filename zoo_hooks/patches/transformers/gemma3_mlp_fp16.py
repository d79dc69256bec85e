"""Gemma-3's text MLP overflows float16 between its projections.

Symptom
-------
Gemma-3 generates noise in float16, also under float16 autocast. In training, the loss or the gradients
become NaN. Results in bfloat16 are correct. EmbeddingGemma uses the same text model and is affected too.

Cause
-----
``Gemma3MLP.forward`` computes ``down_proj(act_fn(gate) * up)`` in the dtype of its input. Two factors of
300 give 90000, which overflows float16. The output of ``down_proj``, which is followed by a norm, would
often be in range.

Repair
------
The repair is the same as that of Gemma-4 (``gemma4-mlp-fp16``). If a product of a token overflows float16,
all products of this token are scaled by a power of two before ``down_proj``, and its output is scaled back.
Other tokens and other dtypes are computed as before.

Values that overflow elsewhere stay infinite or NaN, as in upstream: an output that overflows by itself, and
the hidden states between the layers. So do products before a ``down_proj`` that is not known to be linear,
for example because of a bias, a hook or tensor parallelism. This repair alone may therefore not make the
whole model correct in float16.
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
