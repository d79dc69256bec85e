"""Gemma-4 quantized to 4 bits does not see its images, because it casts their pixels to uint8.

Symptom
-------
If bitsandbytes has quantized the patch embedder of a Gemma-4 to 4 bits, the model does not see its images.
There is no error, but it answers as if all pixels were nearly alike.

Cause
-----
``Gemma4VisionPatchEmbedder.forward`` casts the pixels to ``input_proj.weight.dtype``. For a weight that is
packed to 4 bits this is uint8: the dtype in which it is stored, not the one in which the layer computes.
Pixels between -1 and 1 become 0, 1 or 255.

Repair
------
If the weight does not have a floating-point dtype, the pixels keep their dtype, as upstream does since
5.13.0. All other models run upstream's own forward.
"""

from __future__ import annotations

from functools import partial
from types import ModuleType
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches import _known
from zoo_hooks.patches.transformers import _four_bit, _packed

KNOWN = {
    "cb1f52d22eb9": Verdict.AFFECTED,  # 5.5.0 to 5.9.0
    "78f5ddcc94f5": Verdict.AFFECTED,  # 5.10.1 to 5.12.1
    "767a12331ba2": Verdict.FIXED,  # 5.13.0 to 5.24.0
}


def probe(module: ModuleType) -> Verdict:
    kind = module.Gemma4VisionPatchEmbedder
    return _known.verdict(KNOWN, kind.forward, kind._position_embeddings) or _run(module)  # noqa: SLF001


def _run(module: ModuleType) -> Verdict:
    import torch

    class Packed(torch.nn.Module):  # type: ignore[misc, unused-ignore]
        weight = torch.zeros(1, dtype=torch.uint8)

        def forward(self, pixels: Any) -> Any:
            return pixels.to(torch.float32)

    embedder = module.Gemma4VisionPatchEmbedder.__new__(module.Gemma4VisionPatchEmbedder)
    torch.nn.Module.__init__(embedder)
    embedder.input_proj = Packed()
    embedder.position_embedding_size = 1
    embedder.position_embedding_table = torch.zeros(2, 1, 1)
    positions = torch.zeros(1, 1, 2, dtype=torch.long)
    padding = torch.zeros(1, 1, dtype=torch.bool)
    seen = embedder(torch.full((1, 1, 1), 0.75), positions, padding).item()
    return {0.0: Verdict.AFFECTED, 0.5: Verdict.FIXED}.get(seen, Verdict.UNKNOWN)


def repair(module: ModuleType, changes: Changes) -> None:
    changes.wrap(module.Gemma4VisionPatchEmbedder, "forward", partial(_packed.uncast, "input_proj"))


def canary() -> Figure:
    import torch

    model = _four_bit.quantised(_four_bit.vision_model(), ["lm_head"])
    embedder = model.model.vision_tower.patch_embedder
    inputs = _four_bit.vision_inputs()
    pixels, positions = inputs["pixel_values"], inputs["image_position_ids"]
    padding = torch.zeros(1, 16, dtype=torch.bool)
    with torch.no_grad():
        projected = embedder.input_proj(2 * (pixels - 0.5))
        right = projected + embedder._position_embeddings(positions, padding)  # noqa: SLF001
        gap = float((embedder(pixels, positions, padding) - right).abs().max())
    return Figure(gap, healthy=gap == 0.0)


PATCH = Patch(
    module=__name__,
    title="Gemma-4's patch embedder casts pixels to uint8 when it is quantized to 4 bits",
    severity="silent wrong result",
    targets=("transformers.models.gemma4.modeling_gemma4",),
    affects=("transformers>=5.5.0,<5.13.0", "bitsandbytes>=0.46.1"),
    links=(
        "https://github.com/huggingface/transformers/pull/46933",
        "https://github.com/huggingface/transformers/issues/46932",
    ),
    measures="largest difference between embedded patches and those of uncast pixels (expected: 0.0)",
    probe=probe,
    repair=repair,
    canary=canary,
)
