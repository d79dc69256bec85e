"""The pixels of a Gemma-4 whose patch embedder is packed to 4 bits stay what they are."""

from __future__ import annotations

import inspect

import pytest
import torch

import zoo_hooks
from zoo_hooks.patches.transformers import _four_bit
from zoo_hooks.patches.transformers.gemma4_patch_embedder_uint8 import PATCH as RECORD

pytest.importorskip("bitsandbytes")
target = pytest.importorskip(RECORD.targets[0], reason="Gemma-4 came with 5.5.0")
PATCH = "transformers/gemma4-patch-embedder-uint8"


def affected():
    return zoo_hooks.report()[PATCH].status.name == "APPLIED"


def embed(model, how="keywords", dtype=torch.float32):
    pixels = _four_bit.vision_inputs()["pixel_values"].to(dtype)
    positions = _four_bit.vision_inputs()["image_position_ids"]
    padding = torch.zeros(1, 16, dtype=torch.bool)
    embedder = model.model.vision_tower.patch_embedder
    with torch.no_grad():
        if how == "keywords":
            return embedder(pixel_values=pixels, pixel_position_ids=positions, padding_positions=padding)
        return embedder(pixels, positions, padding)


def test_without_the_repair_an_affected_release_casts_the_pixels(measured):
    """The embedded patches are off by more than 0.01 there, and by nothing with the repair."""
    row = measured(PATCH)
    assert row["with"] == 0.0
    assert (row["without"] > 0.01) == affected()


def test_different_images_give_different_logits():
    """With two images whose pixels all lie strictly between 0 and 1."""
    model = _four_bit.quantised(_four_bit.vision_model(), ["lm_head"])
    inputs = _four_bit.vision_inputs()
    dark, bright = (inputs | {"pixel_values": 0.5 + share * inputs["pixel_values"]} for share in (0.1, 0.4))
    assert _four_bit.difference(model, model, dark).value == 0.0
    with torch.no_grad():
        assert not torch.equal(model(**dark).logits, model(**bright).logits)


def test_packed_and_unpacked_patch_embedders_are_close():
    """What 4 bits cost remains: the packed one is within a fifth of the plain one's largest value."""
    plain = embed(_four_bit.vision_model())
    packed = _four_bit.quantised(_four_bit.vision_model(), ["lm_head"])
    assert torch.equal(embed(packed), embed(packed, "positions"))
    assert (embed(packed) - plain).abs().max() < 0.2 * (plain - 1).abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_models_that_are_not_packed_are_as_without_the_repair(dtype):
    """Bit for bit, in the model's dtype."""
    model = _four_bit.vision_model().to(dtype)
    repaired = embed(model)
    assert repaired.dtype is dtype
    if affected():
        with zoo_hooks.disabled(PATCH):
            assert torch.equal(embed(model), repaired)


def test_only_an_affected_release_is_touched_and_it_looks_as_it_did():
    """The signature is upstream's; on the others the method is upstream's own."""
    forward = target.Gemma4VisionPatchEmbedder.forward
    assert hasattr(forward, "__wrapped__") == affected()
    names = ["self", "pixel_values", "pixel_position_ids", "padding_positions"]
    assert list(inspect.signature(forward).parameters) == names


def test_the_vision_tower_compiles_without_a_graph_break():
    """``torch.compile(fullgraph=True)`` of the patch embedder, plain and packed, gives the same values."""
    for model in (_four_bit.vision_model(), _four_bit.quantised(_four_bit.vision_model(), ["lm_head"])):
        expected = embed(model)
        embedder = model.model.vision_tower.patch_embedder
        torch._dynamo.reset()
        model.model.vision_tower.patch_embedder = torch.compile(embedder, fullgraph=True, backend="eager")
        assert torch.equal(embed(model), expected)
