"""SigLIP2 that is packed to 4 or 8 bits hardly sees its images.

Symptom
-------
SigLIP2 packed by bitsandbytes returns embeddings that hardly depend on the image. The same holds for
SigLIP2 as the vision tower of LFM2-VL and other models. With 4 bits there is no error, and the embedded
patches have a relative error of 0.98. With 8 bits it raises ``data set to a tensor that requires gradients
must be floating point``.

Cause
-----
``Siglip2VisionEmbeddings.forward`` casts the pixels to ``patch_embedding.weight.dtype``. A packed weight
has the dtype uint8 or int8. That is the dtype of its storage, not of its computation.

No upstream issue is known. docs/upstream-reports-torch.md contains a report.

Repair
------
If the weight is packed, the pixels are cast to the dtype that the weight had before it was packed. All
other models run upstream's own forward.
"""

from __future__ import annotations

from types import ModuleType

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches.transformers import _packed_cast, _tiny


def probe(module: ModuleType) -> Verdict:
    return _packed_cast.verdict(
        module.Siglip2VisionEmbeddings, "patch_embedding", _packed_cast.values(), None
    )


def repair(module: ModuleType, changes: Changes) -> None:
    _packed_cast.uncast(changes, module.Siglip2VisionEmbeddings, "patch_embedding")


def canary() -> Figure:
    import torch
    import transformers

    config = transformers.Siglip2VisionConfig(
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_patches=16,
        patch_size=8,
    )
    model = _tiny._seeded(transformers.Siglip2VisionModel, config)  # noqa: SLF001 - its neighbour
    model = getattr(model, "vision_model", model).embeddings
    given = torch.linspace(-1, 1, 16 * 192).reshape(1, 16, 192), torch.tensor([[4, 4]])
    return _packed_cast.error(model, "patch_embedding", lambda one: one(*given))


PATCH = Patch(
    module=__name__,
    title="SigLIP2 packed to 4 or 8 bits casts its pixels to integers",
    severity="silent wrong result",
    symptoms=("data set to a tensor that requires gradients must be floating point @ modeling_siglip2",),
    targets=("transformers.models.siglip2.modeling_siglip2",),
    affects=("transformers>=4.50.0", "bitsandbytes>=0.46.0"),
    links=(
        "https://github.com/huggingface/transformers/blob/v5.24.0/src/transformers/models/siglip2/modeling_siglip2.py#L186",
        "https://github.com/huggingface/transformers/pull/46933",
    ),
    measures="relative error of the embedded patches after packing to 4 bits (expected: < 0.4)",
    probe=probe,
    repair=repair,
    canary=canary,
)
