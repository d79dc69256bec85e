"""A checkpoint with a packed weight for a module on the skip list loads and runs."""

from __future__ import annotations

import copy
import pickle
import types

import pytest
import torch
from conftest import child
from transformers import BitsAndBytesConfig

import zoo_hooks
from zoo_hooks.patches.transformers import _four_bit
from zoo_hooks.patches.transformers.bare_linear_packed_4bit import PATCH as RECORD
from zoo_hooks.patches.transformers.bare_linear_packed_4bit import _AsStored

bitsandbytes = pytest.importorskip("bitsandbytes")
pytest.importorskip("transformers.core_model_loading", reason="the code in question came with 5.0")
PATCH = "transformers/bare-linear-packed-4bit"
SKIP = ["lm_head", "o_proj", "down_proj"]


def bare(model):
    return model.model.layers[0].self_attn.o_proj


def difference(one, other, inputs=None):
    return _four_bit.difference(one, other, inputs or _four_bit.text_inputs()).value


def test_without_the_repair_the_forward_or_the_loading_raises(measured):
    """Up to 5.22.2 the shapes do not multiply; from 5.23.0 they do not match when loading."""
    row = measured(PATCH)
    assert row["without"].startswith("RuntimeError")
    assert row["with"] == 0.0


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_the_output_is_that_of_the_model_that_was_packed(kind, double, bias):
    """Both formats, with nested statistics, and with biases: the largest difference is 0.0."""
    model = _four_bit.quantised(
        _four_bit.text_model(attention_bias=bias, mlp_bias=bias),
        bnb_4bit_quant_type=kind,
        bnb_4bit_use_double_quant=double,
    )
    loaded = _four_bit.reloaded(model, SKIP)
    assert type(bare(loaded)) is bitsandbytes.nn.Linear4bit
    assert (bare(loaded).bias is not None) == bias
    assert difference(model, loaded) == 0.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("storage", [torch.uint8, torch.bfloat16, torch.float16])
def test_bytes_that_are_stored_as_another_dtype_than_the_models_are_not_cast(storage, dtype):
    """Each storage in a model of each dtype: the bytes are equal, and the largest difference is 0.0."""
    model = _four_bit.quantised(_four_bit.text_model(), bnb_4bit_quant_storage=storage, dtype=dtype)
    loaded = _four_bit.reloaded(model, SKIP, dtype=dtype)
    assert type(bare(loaded)) is bitsandbytes.nn.Linear4bit
    for one, other in zip(bare(model).parameters(), bare(loaded).parameters(), strict=True):
        assert one.dtype is other.dtype
        assert torch.equal(one.view(torch.uint8), other.view(torch.uint8))
    assert difference(model, loaded) == 0.0


def test_a_state_dict_that_is_handed_over_is_not_cast_and_not_changed():
    """``from_pretrained(None, state_dict=...)`` reads no file; the tensors in it are the caller's."""
    model = _four_bit.quantised(_four_bit.text_model(), bnb_4bit_quant_storage=torch.bfloat16)
    model.config.quantization_config.llm_int8_skip_modules = SKIP
    states = model.state_dict()
    before = dict(states)
    config = type(model.config).from_dict(model.config.to_dict())
    loaded = type(model).from_pretrained(None, config=config, state_dict=states, dtype=torch.float32)
    assert difference(model, loaded) == 0.0
    assert states.keys() == before.keys()
    assert all(states[key] is before[key] for key in before)


@pytest.mark.parametrize("lost", [torch.float32, torch.float16])
def test_bytes_that_somebody_else_has_cast_raise(lost):
    """No weights at all rather than wrong ones, on each release."""
    import transformers.integrations.bitsandbytes as target

    stored = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_quant_storage": torch.bfloat16}
    config = BitsAndBytesConfig(**stored)
    weight, state = bitsandbytes.functional.quantize_4bit(
        torch.ones(1, 64), quant_type="nf4", quant_storage=torch.bfloat16
    )
    packed = {f"weight.{name}": part for name, part in state.as_dict(packed=True).items()}
    holder = torch.nn.Sequential(torch.nn.Linear(64, 1, bias=False, device="meta"))
    convert = target.Bnb4bitDeserialize(types.SimpleNamespace(quantization_config=config)).convert
    with pytest.raises(RuntimeError, match="but was loaded as"):
        convert({"weight": weight.to(lost), **packed}, model=holder, full_layer_name="0.weight")
    assert type(holder[0]) is torch.nn.Linear
    convert({"weight": weight, **packed}, model=holder, full_layer_name="0.weight")
    assert type(holder[0]) is bitsandbytes.nn.Linear4bit


def test_what_is_not_cast_is_otherwise_the_tensor_that_it_stands_for():
    """Copied, pickled, asked for what it has and has not, cut and moved."""
    stored = torch.arange(4, dtype=torch.uint8)
    for one in (
        _AsStored(stored),
        copy.deepcopy(_AsStored(stored)),
        pickle.loads(pickle.dumps(_AsStored(stored))),
    ):
        assert one.shape == stored.shape
        assert not hasattr(one, "nothing_of_the_kind")
        assert torch.equal(one[1:].to(dtype=torch.float16), stored[1:])


def test_the_target_may_be_imported_before_any_model():
    """Then what loads models is repaired too, and both come back when it is reverted."""
    child("""
        import transformers.integrations.bitsandbytes
        import zoo_hooks
        from transformers import core_model_loading, modeling_utils
        load = core_model_loading.convert_and_load_state_dict_in_model
        assert modeling_utils.convert_and_load_state_dict_in_model is load
        assert zoo_hooks.report()["transformers/bare-linear-packed-4bit"].status.name == "APPLIED"
        zoo_hooks.revert("transformers/bare-linear-packed-4bit")
        load = core_model_loading.convert_and_load_state_dict_in_model
        assert modeling_utils.convert_and_load_state_dict_in_model is load
        assert not hasattr(load, "__wrapped__")
    """)


def test_a_packed_head_loads_too():
    """Not only the layers: ``lm_head``, packed because the list that it was packed with left it out."""
    model = _four_bit.quantised(_four_bit.text_model(), ["q_proj"])
    loaded = _four_bit.reloaded(model, ["q_proj", "lm_head"])
    assert type(loaded.lm_head) is bitsandbytes.nn.Linear4bit
    assert difference(model, loaded) == 0.0


def test_gradients_reach_what_is_before_the_packed_weight():
    """Inputs of a packed module get the gradients that they get in the model that was packed."""
    model = _four_bit.quantised(_four_bit.text_model())
    grads = []
    for one in (model, _four_bit.reloaded(model, SKIP)):
        one.train()
        inputs = torch.linspace(-1, 1, 12 * 64).reshape(1, 12, 64).requires_grad_()
        one(inputs_embeds=inputs).logits.sum().backward()
        grads.append(inputs.grad)
    assert grads[0].abs().max() > 0
    assert torch.equal(*grads)


def test_nothing_is_lost_from_the_state_dict():
    """It has all that is needed to unpack again: the entries of the model that was packed, equal."""
    model = _four_bit.quantised(_four_bit.text_model())
    one, other = model.state_dict(), _four_bit.reloaded(model, SKIP).state_dict()
    assert "model.layers.0.self_attn.o_proj.weight.absmax" in other
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_modules_on_the_list_that_are_not_packed_stay_plain():
    """A list given when packing is honoured, then and when the checkpoint is loaded."""
    model = _four_bit.quantised(_four_bit.text_model(), SKIP)
    loaded = _four_bit.reloaded(model)
    for one in (model, loaded):
        assert type(bare(one)) is torch.nn.Linear
        assert bare(one).weight.dtype is torch.float32
        assert type(one.model.layers[0].self_attn.q_proj) is bitsandbytes.nn.Linear4bit
    assert loaded.config.quantization_config.llm_int8_skip_modules == SKIP
    assert difference(model, loaded) == 0.0


def test_a_given_list_replaces_the_default_one():
    """Without a list the head is skipped; with one that does not name it, it is packed."""
    assert type(_four_bit.quantised(_four_bit.text_model()).lm_head) is torch.nn.Linear
    given = _four_bit.quantised(_four_bit.text_model(), ["q_proj"])
    assert type(given.lm_head) is bitsandbytes.nn.Linear4bit


def test_the_patch_embedder_of_gemma_4_runs_when_it_is_on_the_list():
    """The module with which this was seen."""
    if not hasattr(__import__("transformers"), "Gemma4ForConditionalGeneration"):
        return
    model = _four_bit.quantised(_four_bit.vision_model(), ["lm_head"])
    loaded = _four_bit.reloaded(model, ["lm_head", "input_proj"])
    embedder = loaded.model.vision_tower.patch_embedder.input_proj
    assert type(embedder) is bitsandbytes.nn.Linear4bit
    assert difference(model, loaded, _four_bit.vision_inputs()) == 0.0


def test_a_loaded_model_can_be_copied_pickled_and_compiled():
    """As the model that was packed can: same logits from each; compiling breaks no graph."""
    loaded = _four_bit.reloaded(_four_bit.quantised(_four_bit.text_model()), SKIP)
    inputs = _four_bit.text_inputs()
    assert difference(loaded, copy.deepcopy(loaded)) == 0.0
    torch._dynamo.reset()
    with torch.no_grad():
        expected = loaded(**inputs).logits
        compiled = torch.compile(loaded, fullgraph=True, backend="eager")(**inputs).logits
    assert torch.equal(compiled, expected)
    operation = __import__("transformers").integrations.bitsandbytes.Bnb4bitDeserialize
    assert pickle.loads(pickle.dumps(operation.convert)) is operation.convert


def test_it_can_be_switched_off_in_this_process():
    """An A/B run: inside the block the bug is back, after it not."""
    model = _four_bit.quantised(_four_bit.text_model())
    with zoo_hooks.disabled(PATCH), pytest.raises(RuntimeError):
        difference(model, _four_bit.reloaded(model, SKIP))
    assert difference(model, _four_bit.reloaded(model, SKIP)) == 0.0


def test_the_probe_draws_no_random_numbers():
    """A seeded run is the same after it."""
    import transformers.integrations.bitsandbytes as target

    before = torch.get_rng_state()
    RECORD.probe(target)
    assert torch.equal(before, torch.get_rng_state())


def test_bitsandbytes_is_not_imported_for_those_who_do_not_use_it():
    """Importing transformers and a model imports neither it nor the target."""
    child("""
        import sys
        from transformers import AutoModelForCausalLM, LlamaForCausalLM
        assert "bitsandbytes" not in sys.modules
        assert "transformers.integrations.bitsandbytes" not in sys.modules
    """)
