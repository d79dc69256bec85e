"""What the two cache patches share: a constructor that hides a zero, and nothing else."""

from __future__ import annotations

import copy
import gc
import inspect
import pickle

import pytest
from conftest import python, recorded
from transformers import DynamicCache, StaticCache
from transformers.configuration_utils import PretrainedConfig
from zero_shared import DENSE, config, generate, model

import zoo_hooks
from zoo_hooks.patches.transformers._zero_shared import _WithoutZero, held

PATCHES = {
    DynamicCache: "transformers/cache-dynamic-zero-shared",
    StaticCache: "transformers/cache-static-zero-shared",
}
caches = pytest.mark.parametrize("cache", [DynamicCache, StaticCache])


def build(cache, config, **more):
    return cache(config=config, **({"max_cache_len": 16} if cache is StaticCache else {}), **more)


def kinds(cache):
    return [type(layer).__name__ for layer in cache.layers]


class Watched(PretrainedConfig):
    """A config that counts what is written to it once it is built."""

    model_type = "watched"
    writes = 0

    def __setattr__(self, name, value):
        type(self).writes += 1
        super().__setattr__(name, value)

    def __delattr__(self, name):
        type(self).writes += 1
        super().__delattr__(name)


def watched(shared):
    layer_types = ["sliding_attention", "full_attention"] * 2
    return Watched(
        num_hidden_layers=4, num_kv_shared_layers=shared, sliding_window=8, layer_types=layer_types
    )


USER_SCRIPT = """
import transformers

shape = dict(
    vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, sliding_window=8, num_kv_shared_layers=0, eos_token_id=None,
    layer_types=["sliding_attention", "full_attention"],
)
if hasattr(transformers, "Gemma4ForCausalLM"):
    more = dict(global_head_dim=8, hidden_size_per_layer_input=0, vocab_size_per_layer_input=64)
    model = transformers.Gemma4ForCausalLM(transformers.Gemma4TextConfig(**shape, **more))
else:
    model = transformers.Gemma3ForCausalLM(transformers.Gemma3TextConfig(**shape))
ids = {"input_ids": [list(range(2, 14))]}
inputs = transformers.BatchEncoding(ids, tensor_type="pt")
output = model.generate(**inputs, max_new_tokens=12, do_sample=False, return_dict_in_generate=True)
cache = output["cache"] if "cache" in output else output["past_key_values"]
print(*[layer.keys.shape[-2] for layer in cache.layers])
"""


def test_a_users_script_shows_the_bug_only_with_the_hooks_off():
    """It imports transformers and generates, and knows nothing of zoo-hooks."""
    affected = recorded("transformers/cache-dynamic-zero-shared") == "AFFECTED"
    assert python(USER_SCRIPT).splitlines()[-1] == "7 23"
    assert python(USER_SCRIPT, ZOO_HOOKS="0").splitlines()[-1] == ("23 23" if affected else "7 23")


@caches
def test_every_layer_type_is_kept_when_none_is_shared(cache):
    """Positional and keyword configs give the same four layers."""
    by_keyword = build(cache, config())
    by_position = StaticCache(config(), 16) if cache is StaticCache else DynamicCache(None, config())
    assert kinds(by_keyword) == kinds(by_position)
    assert [layer.is_sliding for layer in by_keyword.layers] == [True, False, True, False]


@caches
def test_a_config_is_never_written_to(cache):
    """No thread can see it changed, for nothing sets or deletes one of its attributes."""
    given = watched(0)
    Watched.writes = 0
    before = given.to_dict()
    build(cache, given)
    assert Watched.writes == 0
    assert given.to_dict() == before


@caches
def test_nothing_keeps_the_stand_in(cache):
    """After the constructor no stand-in for a config is alive, so users can never hold one."""
    made = build(cache, config())
    gc.collect()
    assert not [thing for thing in gc.get_objects() if type(thing) is _WithoutZero]
    assert made.layers


@caches
@pytest.mark.parametrize("shared", [1, 2, 3])
def test_models_that_share_layers_are_as_without_the_repair(cache, shared):
    """With a value above 0 the layers are those of the upstream's own constructor."""
    repaired = kinds(build(cache, watched(shared)))
    with zoo_hooks.disabled(PATCHES[cache]):
        assert kinds(build(cache, watched(shared))) == repaired


@caches
def test_models_without_the_attribute_are_as_without_the_repair(cache):
    """A config that knows nothing of sharing gives what it always gave."""
    given = PretrainedConfig(num_hidden_layers=3, sliding_window=8)
    assert not hasattr(given, "num_kv_shared_layers")
    repaired = kinds(build(cache, given))
    with zoo_hooks.disabled(PATCHES[cache]):
        assert kinds(build(cache, given)) == repaired
    assert len(repaired) == 3


@caches
def test_subclasses_of_the_cache_are_repaired_too(cache):
    """A subclass with a constructor of its own reaches the repaired one."""

    class Mine(cache):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.mine = True

    made = build(Mine, config()) if cache is DynamicCache else Mine(config(), max_cache_len=16)
    assert made.mine
    assert len(made.layers) == 4


def test_a_dynamic_cache_without_a_config_is_as_ever():
    """No config, or None, still gives the cache that grows as it is used."""
    assert DynamicCache().layers == DynamicCache(config=None).layers == []


@caches
def test_errors_for_wrong_arguments_are_the_upstreams_own(cache):
    """A wrong keyword, or a config that is none, raises what it raises without the repair."""
    for wrong in ({"config": object()}, {"offloading": True, "nonsense_": 1, "config": 3}):
        with pytest.raises(Exception) as repaired:  # noqa: PT011
            build(cache, **wrong)
        with zoo_hooks.disabled(PATCHES[cache]), pytest.raises(Exception) as plain:  # noqa: PT011
            build(cache, **wrong)
        assert type(repaired.value) is type(plain.value)
        assert str(repaired.value) == str(plain.value)


@caches
def test_the_class_looks_as_it_did(cache):
    """Signature, name, docstring and source are the upstream's; the class pickles by name."""
    with zoo_hooks.disabled(PATCHES[cache]):
        plain = inspect.signature(cache), inspect.getsource(cache.__init__), cache.__init__.__qualname__
    seen = inspect.signature(cache), inspect.getsource(cache.__init__), cache.__init__.__qualname__
    assert seen == plain
    assert pickle.loads(pickle.dumps(cache)) is cache
    assert pickle.loads(pickle.dumps(cache.__init__)) is cache.__init__


def test_caches_and_models_can_be_copied_and_pickled():
    """Deep copies and pickles of a filled cache hold the same tensors; so does a model's copy."""
    cache = held(generate(DENSE))
    for other in (copy.deepcopy(cache), pickle.loads(pickle.dumps(cache))):
        assert kinds(other) == kinds(cache)
        for mine, theirs in zip(other.layers, cache.layers, strict=True):
            assert mine.keys.equal(theirs.keys)
    original = model(DENSE)
    copied = copy.deepcopy(original)
    assert copied.config.to_dict() == original.config.to_dict()


def test_a_model_survives_saving_loading_and_resizing(tmp_path):
    """The zero is in the saved config, and the loaded, resized model still has bounded caches."""
    original = model(DENSE)
    original.save_pretrained(tmp_path)
    loaded = type(original).from_pretrained(tmp_path).eval()
    assert loaded.config.num_kv_shared_layers == 0
    assert loaded.config.to_dict().keys() == original.config.to_dict().keys()
    loaded.resize_token_embeddings(80)
    output = loaded.generate(
        generate(DENSE).sequences[:, :12], max_new_tokens=12, do_sample=False, return_dict_in_generate=True
    )
    assert [layer.keys.shape[-2] for layer in held(output).layers] == [7, 23, 7, 23]


@caches
def test_a_release_without_the_bug_is_left_untouched(cache):
    """Where the patch is not needed, the constructor is the upstream's own function."""
    untouched = zoo_hooks.report()[PATCHES[cache]].status.name == "NOT_NEEDED"
    assert untouched == (not hasattr(cache.__init__, "__wrapped__"))
