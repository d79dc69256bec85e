"""Kosmos-2.5 quantized to 4 bits does not see its images.

Symptom
-------
A Kosmos-2.5 that bitsandbytes has quantized to 4 bits reads nothing in its images, without any error. The
output of each MLP in its vision tower has an error as large as the output itself. Quantization to 8 bits
gives correct results.

Cause
-----
``Kosmos2_5VisionMlp.forward`` casts its hidden states to ``wo.weight.dtype``, unless that is int8. For a
weight that is packed to 4 bits it is uint8: the dtype in which it is stored, not the one in which the layer
computes.

No upstream issue is known. docs/upstream-reports-torch.md contains a report.

Repair
------
If the weight is packed, the states are cast to the dtype that it had before, as in an unquantized model.
All other models run upstream's own forward.
"""

from __future__ import annotations

from types import ModuleType

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches.transformers import _packed_cast, _tiny


def probe(module: ModuleType) -> Verdict:
    return _packed_cast.verdict(module.Kosmos2_5VisionMlp, "wo", _packed_cast.values())


def repair(module: ModuleType, changes: Changes) -> None:
    _packed_cast.uncast(changes, module.Kosmos2_5VisionMlp, "wo")


def canary() -> Figure:
    import torch
    from transformers.models.kosmos2_5 import configuration_kosmos2_5 as configs
    from transformers.models.kosmos2_5 import modeling_kosmos2_5 as models

    config = configs.Kosmos2_5VisionConfig(
        hidden_size=64,
        patch_embed_hidden_size=64,
        intermediate_size=64,
        head_dim=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_num_patches=64,
    )
    model = _tiny._seeded(models.Kosmos2_5VisionModel, config)  # noqa: SLF001 - its neighbour
    states = torch.linspace(-3, 3, 4 * 64).reshape(1, 4, 64)
    return _packed_cast.error(model, "encoder.layer.0.mlp.wo", lambda one: one.encoder.layer[0].mlp(states))


PATCH = Patch(
    module=__name__,
    title="Kosmos-2.5 quantized to 4 bits casts the states of its vision tower to uint8",
    severity="silent wrong result",
    targets=("transformers.models.kosmos2_5.modeling_kosmos2_5",),
    affects=("transformers>=4.56.0", "bitsandbytes>=0.46.0"),
    links=(
        "https://github.com/huggingface/transformers/blob/v5.24.0/src/transformers/models/kosmos2_5/modeling_kosmos2_5.py#L407-L424",
        "https://github.com/huggingface/transformers/pull/46933",
    ),
    measures="relative error of a vision MLP's output after quantization to 4 bits (expected: < 0.4)",
    probe=probe,
    repair=repair,
    canary=canary,
)
