"""Muse Glimmer quantized to 4 or 8 bits does not see its images.

Symptom
-------
A Muse Glimmer that bitsandbytes has quantized answers as if all pixels were nearly alike, without any
error.

Cause
-----
``MuseGlimmerVisionPatchEmbedder.forward`` casts the pixels to ``patch_embedding.weight.dtype``. For a
packed weight this is uint8 or int8: the dtype in which it is stored, not the one in which the layer
computes.

No upstream issue is known. docs/upstream-reports-torch.md contains a report.

Repair
------
If the weight is packed, the pixels are cast to the dtype that it had before, as in an unquantized model.
All other models run upstream's own forward.
"""

from __future__ import annotations

from types import ModuleType

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches.transformers import _packed_cast, _tiny


def probe(module: ModuleType) -> Verdict:
    return _packed_cast.verdict(
        module.MuseGlimmerVisionPatchEmbedder, "patch_embedding", _packed_cast.values(), None
    )


def repair(module: ModuleType, changes: Changes) -> None:
    _packed_cast.uncast(changes, module.MuseGlimmerVisionPatchEmbedder, "patch_embedding")


def canary() -> Figure:
    import torch
    from transformers.models.muse_glimmer import configuration_muse_glimmer as configs
    from transformers.models.muse_glimmer import modeling_muse_glimmer as models

    config = configs.MuseGlimmerVisionConfig(
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        patch_size=8,
        pos_emb_height=4,
        pos_emb_width=4,
    )
    model = _tiny._seeded(models.MuseGlimmerVisionModel, config)  # noqa: SLF001 - its neighbour
    patches, grid = torch.linspace(-1, 1, 16 * 384).reshape(16, 384), torch.tensor([[1, 4, 4]])
    return _packed_cast.error(
        model, "patch_embedder.patch_embedding", lambda one: one.patch_embedder(patches, grid)
    )


PATCH = Patch(
    module=__name__,
    title="Muse Glimmer quantized to 4 or 8 bits casts its pixels to integers",
    severity="silent wrong result",
    targets=("transformers.models.muse_glimmer.modeling_muse_glimmer",),
    affects=("transformers>=5.15.0", "bitsandbytes>=0.46.1"),
    links=(
        "https://github.com/huggingface/transformers/blob/v5.24.0/src/transformers/models/muse_glimmer/modeling_muse_glimmer.py#L681",
        "https://github.com/huggingface/transformers/pull/46933",
    ),
    measures="relative error of embedded patches after quantization to 4 bits (expected: < 0.4)",
    probe=probe,
    repair=repair,
    canary=canary,
)
