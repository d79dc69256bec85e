"""Keys and values of models with a kv_cache_scheme, where transformers has the cache by its new name."""

from __future__ import annotations

import contextlib
import copy
import inspect
import json
import sys
import types

import pytest
import torch
import transformers
from compressed_tensors.quantization import (
    QuantizationArgs,
    QuantizationConfig,
    QuantizationScheme,
    apply_quantization_config,
)
from conftest import recorded
from safetensors.torch import save_file
from torch._dynamo.testing import CompileCounter

import zoo_hooks
from zoo_hooks.model import Verdict
from zoo_hooks.patches.compressed_tensors import kv_cache_scheme_dropped as patch

PATCH = "compressed_tensors/kv-cache-scheme-dropped"
pytestmark = pytest.mark.skipif(recorded(PATCH) != "AFFECTED", reason="only with transformers 5.24")

torch.set_num_threads(1)
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 64,
    "initializer_range": 0.2,
}
TEXT = torch.arange(1, 13)[None]
STEP = 0.05


def base():
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES)).eval()


def arguments(**more):
    return QuantizationArgs(**{"num_bits": 4, "type": "int", "symmetric": True, "strategy": "tensor", **more})


def quantised(status="frozen", groups=None, **more):
    """A model whose keys and values are rounded to multiples of STEP."""
    model = base()
    scheme = None if groups else arguments(**more)
    config = QuantizationConfig(
        config_groups=groups or {}, kv_cache_scheme=scheme, quantization_status=status
    )
    apply_quantization_config(model, config)
    return filled(model)


def filled(model):
    for name, weight in model.named_parameters():
        if name.endswith(("q_scale", "k_scale", "v_scale")):
            weight.data.fill_(STEP)
    return model


def scales(model):
    return sum(name.endswith("k_scale") for name, _ in model.named_parameters())


@torch.no_grad()
def logits(model, **more):
    return model(TEXT, **more).logits


class Rounding(transformers.DynamicCache):
    """What a kv_cache_scheme comes to: a cache of plain transformers that rounds what it is given."""

    def update(self, keys, values, *args, **kwargs):
        rounded = ((states / STEP).round().clamp(-8, 7) * STEP for states in (keys, values))
        return super().update(*rounded, *args, **kwargs)


@pytest.mark.parametrize("status", ["initialized", "calibration", "frozen"])
def test_keys_and_values_are_rounded_and_without_the_repair_they_are_not(status):
    """The logits are those of a model whose cache rounds; also where none is asked for."""
    expected = logits(base(), cache=Rounding())
    model = quantised(status)
    assert scales(model) == 2
    assert logits(model).allclose(expected, atol=1e-5)
    assert logits(model, use_cache=False).allclose(expected, atol=1e-5)
    with zoo_hooks.disabled(PATCH):
        assert logits(quantised(status)).equal(logits(base()))


def test_a_checkpoint_that_says_so_is_loaded_so(tmp_path):
    """With the scales that it holds."""
    model = quantised()
    config = json.loads(QuantizationConfig.from_pretrained(model).model_dump_json())
    vars(model.config).pop("quantization_config", None)  # not every release sets it
    model.config.save_pretrained(tmp_path)
    save_file(dict(model.state_dict()), tmp_path / "model.safetensors", metadata={"format": "pt"})
    whole = json.loads((tmp_path / "config.json").read_text())
    whole["quantization_config"] = {**config, "quant_method": "compressed-tensors"}
    (tmp_path / "config.json").write_text(json.dumps(whole))
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert scales(loaded) == 2
    assert logits(loaded).equal(logits(model))


@pytest.mark.parametrize("how", [{}, {"use_cache": False}, {"cache_implementation": "static"}], ids=str)
def test_tokens_are_those_of_a_cache_that_rounds(how):
    """Generated with a cache that grows, without, and with a static one; cached steps give what one does."""
    settings = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "eos_token_id": None,
                "disable_compile": True}  # fmt: skip
    expected = base().generate(TEXT, cache=Rounding(), **settings)
    model = quantised()
    assert model.generate(TEXT, **settings, **how).equal(expected)
    assert not base().generate(TEXT, **settings).equal(expected)


def test_the_models_own_cache_holds_what_is_rounded():
    """It is the caller's, and goes on from there."""
    model, cache = quantised(), transformers.DynamicCache()
    with torch.no_grad():
        model(TEXT[:, :6], cache=cache)
        later = model(TEXT[:, 6:], cache=cache).logits
    assert cache.get_seq_length() == TEXT.shape[1]
    steps = cache.layers[0].keys / STEP
    assert steps.allclose(steps.round(), atol=1e-4)
    assert later.allclose(logits(model)[:, 6:], atol=1e-5)


def test_a_scheme_for_attention_is_applied():
    """Queries, keys and values have their scales."""
    groups = {"any": QuantizationScheme(targets=["LlamaAttention"], input_activations=arguments())}
    model = quantised(groups=groups)
    found = {name.rpartition(".")[2] for name, _ in model.named_parameters() if "scale" in name}
    assert found == {"q_scale", "k_scale", "v_scale"}
    assert not logits(model).allclose(logits(base()), atol=1e-3)


def test_calibration_sees_keys_and_values():
    """What is registered for them is called with them, and what it gives is used."""
    modeling = pytest.importorskip("compressed_tensors.modeling")
    model, seen = quantised(), []
    modeling.register_key_hook(model.model.layers[0].self_attn, lambda _, keys: seen.append(keys.shape))
    before = logits(model)
    modeling.register_value_hook(model.model.layers[0].self_attn, lambda _, values: values * 0)
    assert not logits(model).allclose(before)
    assert seen == [(1, 2, 12, 8)] * 2


def test_it_compiles_to_one_graph():
    """With the logits of eager."""
    torch._dynamo.reset()
    graphs, model = CompileCounter(), quantised()
    whole = torch.compile(model, fullgraph=True, backend=graphs)
    assert logits(whole, use_cache=False).allclose(logits(model, use_cache=False), atol=1e-5)
    assert graphs.frame_count == 1


def test_quantization_is_switched_off_and_on_and_copied():
    """As compressed-tensors has it; a deep copy refers to the attention of the model that it is of."""
    from compressed_tensors.quantization import disable_quantization, enable_quantization

    model = quantised()
    rounded = logits(model)
    model.apply(disable_quantization)
    assert logits(model).allclose(logits(base()), atol=1e-6)
    model.apply(enable_quantization)
    assert logits(model).equal(rounded)
    assert scales(copy.deepcopy(model)) == 2
    with torch.device("meta"):
        empty = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES))
    config = QuantizationConfig(config_groups={}, kv_cache_scheme=arguments(), quantization_status="frozen")
    apply_quantization_config(empty, config)
    assert scales(empty) == 2


def test_attention_that_takes_the_old_name_gets_it():
    """As code from the Hub may; whatever else is passed comes through."""
    kv_cache = sys.modules[patch.KV_CACHE]
    for forward, name in (
        (lambda cache=None: cache, "cache"),
        (lambda past_key_values=None: past_key_values, "past_key_values"),
        (lambda past_key_value=None: past_key_value, "past_key_value"),
    ):
        seen = []
        module = types.SimpleNamespace(
            forward=forward, kv_cache=types.SimpleNamespace(add_past_key_values=seen.append)
        )
        for given in ({name: "theirs"}, {}):
            args, kwargs = getattr(kv_cache, patch.HOOK)(module, ("hidden",), {**given, "use_cache": True})
            assert (args, kwargs) == (("hidden",), {name: module.kv_cache, "use_cache": True})
        assert seen == ["theirs", None]


def test_others_see_the_signature_as_it_is():
    """Only the two modules ask another one."""
    forward = transformers.models.llama.modeling_llama.LlamaAttention.forward
    assert "cache" in inspect.signature(forward).parameters
    place = sys.modules[patch.INITIALIZE]
    assert "past_key_values" in place.inspect.signature(forward).parameters
    with zoo_hooks.disabled(PATCH):
        assert place.inspect is inspect


def test_one_that_asks_for_the_new_name_is_left_alone(monkeypatch):
    """What one that fails on the probe's own call raises goes to the engine."""
    kv_cache = sys.modules[patch.KV_CACHE]

    def hook(module, args, kwargs):
        module.kv_cache.add_past_key_values(kwargs["cache"])
        return args, {**kwargs, "cache": module.kv_cache}

    def asks(module):
        return "cache" in inspect.signature(module.forward).parameters

    def fails(module):
        raise TypeError("past_key_values")

    with zoo_hooks.disabled(PATCH):
        with monkeypatch.context() as own:
            own.setattr(kv_cache, patch.HOOK, hook)
            assert patch.probe(types.SimpleNamespace(is_cached_attention_module=asks)) is Verdict.FIXED
            with pytest.raises(TypeError, match="past_key_values"):
                patch.probe(types.SimpleNamespace(is_attention_module=fails))
        assert patch.probe(types.SimpleNamespace(is_attention_module=asks)) is Verdict.AFFECTED


@pytest.mark.parametrize("first", ["theirs", "ours"])
def test_another_tool_may_rename_around_the_hook(first, monkeypatch):
    """The hook gives the cache back by the name by which it was handed in."""
    kv_cache = sys.modules[patch.KV_CACHE]
    with zoo_hooks.disabled(PATCH) if first == "theirs" else contextlib.nullcontext():
        original = getattr(kv_cache, patch.HOOK)

    def hook(module, args, kwargs):
        given = {"past_key_values" if name == "cache" else name: value for name, value in kwargs.items()}
        args, given = original(module, args, given)
        if "cache" in kwargs:
            given["cache"] = given.pop("past_key_values")
        return args, given

    with monkeypatch.context() as own:
        own.setattr(kv_cache, patch.HOOK, hook)
        assert patch.canary().healthy


@pytest.mark.parametrize("first", ["theirs", "ours"])
def test_another_tools_repair_before_or_after_does_no_harm(first, monkeypatch):
    """One that replaces both functions by those that ask for the new name; before us it is seen."""
    place, kv_cache = sys.modules[patch.INITIALIZE], sys.modules[patch.KV_CACHE]
    name = next(
        name for name in ("is_cached_attention_module", "is_attention_module") if hasattr(place, name)
    )

    original = getattr(place, name)

    def asks(module):
        attention = "Attention" in type(module).__name__
        return original(module) or (attention and "cache" in inspect.signature(module.forward).parameters)

    def hook(module, args, kwargs):
        module.kv_cache.add_past_key_values(kwargs.get("cache"))
        return args, {**kwargs, "cache": module.kv_cache}

    with (
        zoo_hooks.disabled(PATCH) if first == "theirs" else contextlib.nullcontext(),
        monkeypatch.context() as own,
    ):
        for module in (place, sys.modules["compressed_tensors.quantization.lifecycle.apply"]):
            own.setattr(module, name, asks)
        own.setattr(kv_cache, patch.HOOK, hook)
        assert patch.probe(place) is Verdict.FIXED
        assert patch.canary().healthy
