"""Cosmos3 Edge cannot see its images after bitsandbytes has packed it to 4 or 8 bits.

Symptom
-------
Packed to 4 bits by bitsandbytes, Cosmos3 Edge answers as if all pixels were nearly alike. There is no
error, but the patch embeddings are some 250 times too large. Packed to 8 bits, the model raises ``data set
to a tensor that requires gradients must be floating point``.

Cause
-----
``Cosmos3EdgeVisionEmbeddings.forward`` casts the pixels to ``patch_embedding.weight.dtype``. A packed
weight has the dtype uint8 or int8. The weight is stored in this dtype, but the layer does not compute in
it.

No upstream issue is known. docs/upstream-reports-torch.md contains a report.

Repair
------
If the weight is packed, the pixels are cast to the dtype that the weight had before packing, as in a model
that is not packed. Any other model runs upstream's own forward.
"""

from __future__ import annotations

from types import ModuleType

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches.transformers import _packed_cast, _tiny


def probe(module: ModuleType) -> Verdict:
    return _packed_cast.verdict(
        module.Cosmos3EdgeVisionEmbeddings, "patch_embedding", _packed_cast.values(), None
    )


def repair(module: ModuleType, changes: Changes) -> None:
    _packed_cast.uncast(changes, module.Cosmos3EdgeVisionEmbeddings, "patch_embedding")


def canary() -> Figure:
    import torch
    from transformers.models.cosmos3_edge import configuration_cosmos3_edge as configs
    from transformers.models.cosmos3_edge import modeling_cosmos3_edge as models

    config = configs.Cosmos3EdgeVisionConfig(
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_patches=16,
        patch_size=8,
    )
    model = _tiny._seeded(models.Cosmos3EdgeVisionModel, config)  # noqa: SLF001 - its neighbour
    patches, grid = torch.linspace(-1, 1, 16 * 192).reshape(16, 192), torch.tensor([[1, 4, 4]])
    return _packed_cast.error(model, "embeddings.patch_embedding", lambda one: one.embeddings(patches, grid))


PATCH = Patch(
    module=__name__,
    title="Cosmos3 Edge packed to 4 or 8 bits casts its pixels to integers",
    severity="silent wrong result",
    symptoms=("data set to a tensor that requires gradients must be floating point @ modeling_cosmos3_edge",),
    targets=("transformers.models.cosmos3_edge.modeling_cosmos3_edge",),
    affects=("transformers>=5.15.0", "bitsandbytes>=0.46.1"),
    links=(
        "https://github.com/huggingface/transformers/blob/v5.24.0/src/transformers/models/cosmos3_edge/modeling_cosmos3_edge.py#L416",
        "https://github.com/huggingface/transformers/pull/46933",
    ),
    measures="relative error of the patch embeddings after packing to 4 bits (expected: < 0.4)",
    probe=probe,
    repair=repair,
    canary=canary,
)
