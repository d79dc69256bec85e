"""Gemma-4's vision tower in float16 is finite and agrees with float32; other dtypes are untouched."""

from __future__ import annotations

import copy
import functools
import inspect
import pickle
import types

import pytest
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module

pytest.importorskip("transformers.models.gemma4")

from transformers.models.gemma4 import modeling_gemma4 as gemma4

import zoo_hooks
from zoo_hooks.patches.transformers import _tiny, gemma4_vision_pooler_fp16

PATCH = "transformers/gemma4-vision-pooler-fp16"
WRAPPED = [gemma4.Gemma4VisionEncoder, gemma4.Gemma4VisionModel]
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


def test_what_does_not_fit_without_standardizing_is_infinite():
    """Towers like those of E2B and E4B: with the sign that float32 has, as from 5.10.1 on."""
    expected = run(tower(standardize=False)).last_hidden_state
    seen = run(tower(torch.float16, standardize=False)).last_hidden_state
    too_large = expected.abs() > 1.01 * 65520
    assert too_large.any()
    assert torch.equal(seen[too_large].float(), expected[too_large].sign() * float("inf"))


def by_hand(made):
    """What a tool gets that calls a tower's parts itself."""
    given = inputs(made.patch_embedder.input_proj.weight.dtype)
    pixels, positions = given.values()
    padding = (positions == -1).all(-1)
    with torch.no_grad():
        embeds = made.patch_embedder(pixels, positions, padding)
        states = made.encoder(inputs_embeds=embeds, attention_mask=~padding, pixel_position_ids=positions)
        return made.pooler(states.last_hidden_state, positions, padding, 4)[0]


class WithOwnForward(gemma4.Gemma4VisionModel):
    """A vision model that pools, and does not standardize."""

    def forward(self, **_):
        return by_hand(self)


class NarrowEncoder(gemma4.Gemma4VisionEncoder):
    """An encoder that takes nothing else than upstream's."""

    def forward(self, inputs_embeds, attention_mask, pixel_position_ids=None):
        return super().forward(inputs_embeds, attention_mask, pixel_position_ids)


class NarrowPooler(gemma4.Gemma4VisionPooler):
    """A pooler that takes float16 only."""

    def forward(self, hidden_states, *args, **kwargs):
        assert hidden_states.dtype is torch.float16
        return super().forward(hidden_states, *args, **kwargs)


def hooked(made):
    """What is pooled in float16 cannot become what is pooled in float32."""
    made.pooler.register_forward_hook(lambda _, __, output: (output[0].half(), output[1]))
    return made


def with_part(name, kind):
    def change(made):
        getattr(made, name).__class__ = kind
        return made

    return change


def with_forward(made):
    plain = made.encoder.forward

    def forward(inputs_embeds, attention_mask, pixel_position_ids):
        return plain(inputs_embeds, attention_mask, pixel_position_ids)

    made.encoder.forward = forward
    return made


CHANGES = {
    "subclass": lambda made: setattr(made, "__class__", WithOwnForward) or made,
    "encoder": with_part("encoder", NarrowEncoder),
    "forward of the encoder": with_forward,
    "pooler": with_part("pooler", NarrowPooler),
    "hook on the pooler": hooked,
}


@pytest.mark.parametrize("loud", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_a_tower_with_other_parts_is_left_as_upstream_has_it(change, loud):
    """In float16: a subclass, an encoder or pooler with a forward of its own, a hook."""
    made = CHANGES[change](tower(torch.float16, loud=loud))
    seen = run(made)
    with zoo_hooks.disabled(PATCH):
        plain = run(made)
    if change != "subclass":
        seen, plain = seen.last_hidden_state, plain.last_hidden_state
    assert seen.dtype is torch.float16 or not applied()
    torch.testing.assert_close(seen, plain, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_pooler_that_is_called_by_itself_gives_what_upstream_gives(dtype):
    """Values and dtype: that of its input up to 5.10.0, float32 since."""
    made = tower(dtype, loud=False)
    seen = by_hand(made)
    assert seen.dtype is (dtype if applied() else torch.float32)
    with zoo_hooks.disabled(PATCH):
        assert torch.equal(by_hand(made), seen)


def test_a_forward_that_was_kept_works_when_the_repair_is_undone():
    """As accelerate keeps it: it is upstream's then."""
    made = tower(torch.float16)
    made.forward = made.forward
    repaired = applied()
    assert run(made).last_hidden_state.isfinite().all()
    with zoo_hooks.disabled(PATCH):
        assert run(made).last_hidden_state.isfinite().all() != repaired


def test_a_tower_that_accelerate_has_placed_agrees_with_float32():
    """With the hooks of ``device_map`` on each part."""
    expected = run(tower()).last_hidden_state
    made = tower(torch.float16)
    for part in made.modules():
        add_hook_to_module(part, AlignDevicesHook("cpu"))
    assert (run(made).last_hidden_state - expected).abs().max() < 5e-3 * expected.abs().max()


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
def test_a_forward_of_others_is_left_alone(part, monkeypatch):
    """It may take upstream's arguments only: UNKNOWN where the release is affected."""
    expected = "UNKNOWN" if applied() else "FIXED"
    for one in WRAPPED if applied() else ():
        monkeypatch.setattr(one, "forward", one.forward.__wrapped__)
    plain = part.forward

    @functools.wraps(plain)
    def forward(self, *given, **named):
        return plain(self, *given, **named)

    monkeypatch.setattr(part, "forward", forward)
    assert gemma4_vision_pooler_fp16.probe(gemma4).name == expected


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
    """The canary's figure: all values are lost, or none."""
    row = measured(PATCH)
    assert row["without"] == (128 if row["status"] == "APPLIED" else 0)
    assert row["with"] == 0
