"""Gemma-4's vision tower in float16 is finite and agrees with float32; other dtypes are untouched."""

from __future__ import annotations

import copy
import inspect
import pickle
import types

import pytest
import torch

pytest.importorskip("transformers.models.gemma4")

from transformers.models.gemma4 import modeling_gemma4 as gemma4

import zoo_hooks
from zoo_hooks.patches.transformers import _tiny

PATCH = "gemma4-vision-pooler-fp16"
WRAPPED = [gemma4.Gemma4VisionPooler, gemma4.Gemma4VisionEncoder, gemma4.Gemma4VisionModel]
wrapped = pytest.mark.parametrize("part", WRAPPED, ids=lambda part: part.__name__)


def applied() -> bool:
    return zoo_hooks.report()[PATCH].status.name == "APPLIED"


def tower(dtype=torch.float32, *, loud=True, standardize=True):
    """A vision tower; a loud one pools values of 79 000, which standardizing brings back to 1."""
    made = _tiny.multimodal_model().model.vision_tower
    made.config.standardize = standardize
    made.pooler.root_hidden_size = 1152**0.5
    if loud:
        made.patch_embedder.position_embedding_table.data *= 1200
    made.register_buffer("std_bias", torch.full((32,), 40000.0))
    made.register_buffer("std_scale", torch.full((32,), 1 / 40000))
    return made.to(dtype)


def inputs(dtype=torch.float32):
    given = _tiny.image_inputs()
    return {
        "pixel_values": given["pixel_values"].to(dtype),
        "pixel_position_ids": given["image_position_ids"],
    }


def run(made, **more):
    with torch.no_grad():
        return made(**inputs(made.patch_embedder.input_proj.weight.dtype), **more)


def test_a_loud_tower_in_float16_agrees_with_float32():
    """Finite, float16, and within 0.005 of float32 on a scale of 1."""
    expected = run(tower()).last_hidden_state
    seen = run(tower(torch.float16)).last_hidden_state
    assert seen.dtype is torch.float16
    assert (seen - expected).abs().max() < 5e-3 * expected.abs().max()
    assert expected.abs().max() > 0.5


def test_the_same_tower_overflows_without_the_repair():
    """Inside ``disabled`` an affected release gives values that are not finite."""
    with zoo_hooks.disabled(PATCH):
        seen = run(tower(torch.float16)).last_hidden_state
    assert seen.isfinite().all() != applied()


def test_what_does_not_fit_without_standardizing_saturates():
    """Towers like those of E2B and E4B stay finite, with the sign that float32 has."""
    expected = run(tower(standardize=False)).last_hidden_state
    seen = run(tower(torch.float16, standardize=False)).last_hidden_state
    if applied():
        assert (seen == expected.clamp(-65504, 65504).half()).float().mean() > 0.5
        assert seen.isfinite().all()
    assert (seen.sign() == expected.sign()).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("standardize", [True, False])
def test_other_dtypes_are_bit_identical(dtype, standardize):
    """float32 and bfloat16, loud or not, are what they are without the repair."""
    made = tower(dtype, standardize=standardize)
    seen = run(made).last_hidden_state
    with zoo_hooks.disabled(PATCH):
        expected = run(made).last_hidden_state
    assert seen.dtype is expected.dtype
    assert torch.equal(seen, expected)


@pytest.mark.parametrize("weights", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("autocast", [None, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("standardize", [True, False])
def test_the_output_has_the_dtype_that_it_has_without_the_repair(weights, autocast, standardize):
    """In every mixture of weights and autocast, and quiet values are close to float32."""
    quiet = tower(weights, loud=False, standardize=standardize)
    with torch.autocast("cpu", dtype=autocast, enabled=autocast is not None):
        seen = run(quiet).last_hidden_state
        with zoo_hooks.disabled(PATCH):
            expected = run(quiet).last_hidden_state
    assert seen.dtype is expected.dtype
    assert torch.allclose(seen.float(), expected.float(), rtol=5e-3, atol=5e-3)


def test_captured_states_and_tuples_hold_the_same_output():
    """The last of ``hidden_states`` is the output itself; ``return_dict=False`` gives a tuple."""
    made = tower(torch.float16)
    seen = run(made, output_hidden_states=True)
    assert seen.hidden_states[-1] is seen.last_hidden_state
    assert seen["last_hidden_state"] is seen.last_hidden_state
    as_tuple = run(made, return_dict=False)
    assert type(as_tuple) is tuple
    assert torch.equal(as_tuple[0], seen.last_hidden_state)


def test_the_whole_model_in_float16_gives_finite_logits():
    """Image and text through a loud tower: the logits are finite and close to float32."""
    logits = {}
    for dtype in (torch.float32, torch.float16):
        model = _tiny.multimodal_model()
        model.model.vision_tower = tower()
        model = model.to(dtype)
        given = _tiny.image_inputs()
        given["pixel_values"] = given["pixel_values"].to(dtype)
        with torch.no_grad():
            logits[dtype] = model(**given).logits.float()
    assert (logits[torch.float16] - logits[torch.float32]).abs().max() < 0.02


def test_gradients_in_float16_are_finite_and_point_where_those_of_float32_do():
    """The encoder's and the embedder's gradients have a cosine above 0.999."""
    grads = {}
    for dtype in (torch.float32, torch.float16):
        made = tower(dtype)
        made(**inputs(dtype)).last_hidden_state.float().square().mean().backward()
        grads[dtype] = made.patch_embedder.position_embedding_table.grad.flatten().double()
    assert grads[torch.float16].isfinite().all()
    assert torch.cosine_similarity(*grads.values(), dim=0) > 0.999


def test_the_pooler_compiles_without_a_graph_break():
    """``torch.compile(fullgraph=True)`` and ``torch.export`` give what the pooler gives."""
    pooler = tower(torch.float16).pooler
    positions = inputs()["pixel_position_ids"]
    given = (torch.full((1, 16, 32), 2300.0).half(), positions, (positions == -1).all(-1), 16)
    expected = pooler(*given)[0]
    torch._dynamo.reset()
    assert torch.equal(torch.compile(pooler, fullgraph=True, backend="eager")(*given)[0], expected)
    assert torch.equal(torch.export.export(pooler, given).module()(*given)[0], expected)


def test_the_tower_compiles_to_one_graph():
    """With what upstream's own indexing by a mask needs for ``fullgraph``; the same values."""
    made = tower(torch.float16)
    expected = run(made).last_hidden_state
    torch._dynamo.reset()
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True), torch.no_grad():
        compiled = torch.compile(made, fullgraph=True, backend="eager")
        assert torch.equal(compiled(**inputs(torch.float16)).last_hidden_state, expected)


def test_towers_can_be_copied_and_pickled():
    """A deep copy and a pickle give the same values."""
    made = tower(torch.float16)
    expected = run(made).last_hidden_state
    for other in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert torch.equal(run(other).last_hidden_state, expected)


@wrapped
def test_the_classes_look_as_they_did(part):
    """Plain functions with the upstream's name and signature, or the upstream's own ones."""
    assert isinstance(part.forward, types.FunctionType)
    seen = inspect.signature(part.forward), part.forward.__qualname__
    with zoo_hooks.disabled(PATCH):
        untouched = part.forward
        assert seen == (inspect.signature(part.forward), part.forward.__qualname__)
    assert (part.forward is untouched) == (not applied())


def test_without_the_repair_an_affected_release_overflows(measured):
    """The canary's figure: a quarter of the pooled values is lost, or none."""
    row = measured(PATCH)
    assert row["without"] == (4608 if row["status"] == "APPLIED" else 0)
    assert row["with"] == 0
