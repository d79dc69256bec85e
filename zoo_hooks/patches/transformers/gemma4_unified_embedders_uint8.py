"""Gemma-4 unified quantized to 4 bits raises on images and ignores audio: it casts both to uint8.

Symptom
-------
If bitsandbytes has quantized the embedders of a Gemma-4 unified model to 4 bits, the model raises in
``layer_norm`` for each image (``mixed dtype (CPU): all inputs must share same datatype``). It does not hear
audio either: the soft tokens of audio are also cast to whole numbers, without an error.

Cause
-----
``Gemma4UnifiedVisionEmbedder.forward`` and ``Gemma4UnifiedMultimodalEmbedder.forward`` cast their input to
the dtype of the weight of a later layer. For a weight that is packed to 4 bits this is uint8: the dtype in
which it is stored, not the one in which the layer computes.

Repair
------
If the weight does not have a floating-point dtype, the input keeps its dtype, as upstream does since
5.13.0. All other models run upstream's own forward.
"""

from __future__ import annotations

from functools import partial
from types import ModuleType
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches.transformers import _four_bit, _packed


def probe(module: ModuleType) -> Verdict:
    """What reaches the first layer of each, of 0.75."""
    verdicts = (
        _verdict(module.Gemma4UnifiedVisionEmbedder, "patch_dense", "patch_ln1"),
        _verdict(
            module.Gemma4UnifiedMultimodalEmbedder, "embedding_projection", "embedding_pre_projection_norm"
        ),
    )
    return next((one for one in (Verdict.UNKNOWN, Verdict.AFFECTED) if one in verdicts), Verdict.FIXED)


def _verdict(kind: Any, packed: str, first: str) -> Verdict:
    import torch

    class Layer(torch.nn.Module):  # type: ignore[misc, unused-ignore]
        weight = torch.zeros(1, dtype=torch.uint8)
        given: Any = None

        def forward(self, given: Any) -> Any:
            self.given = given
            return given.to(torch.float32)

    embedder = kind.__new__(kind)
    torch.nn.Module.__init__(embedder)
    for name in (packed, first, "patch_ln2", "pos_norm", "multimodal_embedder"):
        setattr(embedder, name, Layer())
    embedder.pos_embedding = torch.zeros(1, 2, 1)
    positions = (torch.zeros(1, 1, 2, dtype=torch.long),) if packed == "patch_dense" else ()
    embedder(torch.full((1, 1, 1), 0.75), *positions)
    seen = getattr(embedder, first).given
    if seen is None:
        return Verdict.UNKNOWN
    return {0.0: Verdict.AFFECTED, 0.75: Verdict.FIXED}.get(seen.item(), Verdict.UNKNOWN)


def repair(module: ModuleType, changes: Changes) -> None:
    changes.wrap(module.Gemma4UnifiedVisionEmbedder, "forward", partial(_packed.uncast, "patch_dense"))
    changes.wrap(
        module.Gemma4UnifiedMultimodalEmbedder, "forward", partial(_packed.uncast, "embedding_projection")
    )


def embedded(model: Any, name: str, *args: Any, **kwargs: Any) -> Any:
    """What an embedder gives; of those of later releases, what they make for the text model."""
    output = getattr(model, name)(*args, **kwargs)
    return getattr(output, "pooler_output", output)


def canary() -> Figure:
    """The largest error of both, packed and not, relative to the largest value."""
    import torch

    plain = _four_bit.unified_model()
    packed = _four_bit.quantised(plain, ["lm_head"])
    seen = _four_bit.unified_inputs()
    heard = torch.linspace(-1, 1, 4 * 64).reshape(1, 4, 64) ** 3
    errors = []
    with torch.no_grad():
        for name, given in {
            "embed_audio": (heard,),
            "embed_vision": (seen["pixel_values"], seen["image_position_ids"]),
        }.items():
            expected = embedded(plain.model, name, *given)
            error = (embedded(packed.model, name, *given) - expected).abs().max() / expected.abs().max()
            errors.append(round(float(error), 3))
    return Figure(max(errors), healthy=max(errors) < 0.3)  # noqa: PLR2004


PATCH = Patch(
    module=__name__,
    title="Gemma-4 unified's embedders cast their input to uint8 when they are quantized to 4 bits",
    severity="silent wrong result",
    symptoms=("mixed dtype (CPU): all inputs must share same datatype @ modeling_gemma4_unified",),
    targets=("transformers.models.gemma4_unified.modeling_gemma4_unified",),
    affects=("transformers>=5.10.0,<5.13.0", "bitsandbytes>=0.46.1"),
    links=(
        "https://github.com/huggingface/transformers/pull/46933",
        "https://github.com/huggingface/transformers/issues/46932",
    ),
    measures="largest relative error of images and audio embedded in 4 bits (expected: < 0.3)",
    probe=probe,
    repair=repair,
    canary=canary,
)
