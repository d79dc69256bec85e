"""What a Gemma-4 unified model sees and hears stays what it is when its embedders are packed to 4 bits."""

from __future__ import annotations

import copy
import inspect
import pickle
from functools import partial

import pytest
import torch

import zoo_hooks
from zoo_hooks.patches.transformers import _four_bit
from zoo_hooks.patches.transformers.gemma4_unified_embedders_uint8 import PATCH as RECORD
from zoo_hooks.patches.transformers.gemma4_unified_embedders_uint8 import embedded

pytest.importorskip("bitsandbytes")
target = pytest.importorskip(RECORD.targets[0], reason="Gemma-4 unified came with 5.10.0")
PATCH = "transformers/gemma4-unified-embedders-uint8"
AUDIO = torch.linspace(-1, 1, 4 * 64).reshape(1, 4, 64) ** 3
PARAMETERS = {
    "Gemma4UnifiedVisionEmbedder": ["self", "pixel_values", "image_position_ids"],
    "Gemma4UnifiedMultimodalEmbedder": ["self", "inputs_embeds"],
}


def affected():
    return zoo_hooks.report()[PATCH].status.name == "APPLIED"


def packed():
    return _four_bit.quantised(_four_bit.unified_model(), ["lm_head"])


def embed(model, how="keywords", dtype=torch.float32):
    """An image and audio."""
    inputs = _four_bit.unified_inputs()
    pixels, positions = inputs["pixel_values"].to(dtype), inputs["image_position_ids"]
    vision, audio = (
        partial(embedded, model.model, "embed_vision"),
        partial(embedded, model.model, "embed_audio"),
    )
    with torch.no_grad():
        if how == "keywords":
            seen = vision(pixel_values=pixels, image_position_ids=positions)
            return seen, audio(inputs_embeds=AUDIO.to(dtype))
        return vision(pixels, positions), audio(AUDIO.to(dtype))


def test_without_the_repair_an_affected_release_raises(measured):
    """The canary's figure: an error without, what 4 bits cost with."""
    row = measured(PATCH)
    assert row["with"] < 0.3
    assert ("RuntimeError" in str(row["without"])) == affected()


def test_packed_and_unpacked_embedders_are_close():
    """Within a fifth of the largest value; arguments by keyword and by position, a copy, a pickle."""
    model = packed()
    expected = embed(model)
    for seen, plain in zip(expected, embed(_four_bit.unified_model()), strict=True):
        assert seen.dtype is torch.float32
        assert (seen - plain).abs().max() < 0.2 * plain.abs().max()
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert all(map(torch.equal, embed(other, "positions"), expected))


def test_different_images_give_different_logits():
    """With two images whose pixels are all positive."""
    model, inputs = packed(), _four_bit.unified_inputs()
    with torch.no_grad():
        logits = [model(**inputs | {"pixel_values": inputs["pixel_values"] ** power}).logits
                  for power in (1, 3)]  # fmt: skip
    assert not torch.equal(*logits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_models_that_are_not_packed_are_as_without_the_repair(dtype):
    """Bit for bit, in the model's dtype."""
    model = _four_bit.unified_model().to(dtype)
    repaired = embed(model, dtype=dtype)
    assert repaired[0].dtype is dtype
    if affected():
        with zoo_hooks.disabled(PATCH):
            assert all(map(torch.equal, embed(model, dtype=dtype), repaired))


@pytest.mark.parametrize("name", PARAMETERS)
def test_only_an_affected_release_is_touched_and_it_looks_as_it_did(name):
    """The signature is upstream's; on the others the method is upstream's own."""
    forward = getattr(target, name).forward
    assert forward.__globals__["__name__"].startswith("zoo_hooks.") == affected()
    assert list(inspect.signature(forward).parameters)[: len(PARAMETERS[name])] == PARAMETERS[name]


def test_the_embedders_compile_without_a_graph_break():
    """``torch.compile(fullgraph=True)``, plain and packed, gives the same values."""
    for model in (_four_bit.unified_model(), packed()):
        expected = embed(model)
        torch._dynamo.reset()
        for name in ("embed_vision", "embed_audio"):
            whole = torch.compile(getattr(model.model, name), fullgraph=True, backend="eager")
            setattr(model.model, name, whole)
        assert all(map(torch.equal, embed(model), expected))
