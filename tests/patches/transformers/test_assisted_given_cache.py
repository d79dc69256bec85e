"""Assisted generation from a cache that is handed in gives the greedy tokens."""

from __future__ import annotations

import inspect
from types import SimpleNamespace

import pytest
import torch
import transformers
from assisted import ASSISTANTS, HOW, SORTS, gemma3
from conftest import recorded
from transformers.generation import utils

import zoo_hooks
from zoo_hooks.patches.transformers import _assisted, _tiny, _zero_shared, assisted_given_cache

PATCH = "assisted-given-cache"
SHORT = {**HOW, "max_new_tokens": 8}
pytestmark = pytest.mark.skipif(
    not _zero_shared.knows_sharing(transformers.cache_utils), reason="no such layers before 4.56.0"
)
each = pytest.mark.parametrize("sort", SORTS)


def turn(model, **more):
    """A first turn of 20 tokens at least, which passes the window, and all ids of the second."""
    first = model.generate(_tiny.prompt(), **SHORT, **more, return_dict_in_generate=True)
    return _zero_shared.held(first), torch.cat([first.sequences, _tiny.prompt(5)], 1)


def differing(model, ids, **more):
    """How many tokens are unlike those without a cache."""
    expected = model.generate(ids, **SHORT, use_cache=False)
    seen = model.generate(ids, **SHORT, **more)[:, : expected.shape[1]]  # 5.5.0 may give one more
    return int((seen != expected).sum())


@each
@pytest.mark.parametrize("assistant", ASSISTANTS)
def test_the_second_turn_gives_the_greedy_tokens(sort, assistant):
    """After a first one without assistance, whose layers have kept only their windows."""
    model = SORTS[sort]()
    cache, ids = turn(model)
    assert differing(model, ids, past_key_values=cache, **ASSISTANTS[assistant](model)) == 0


@each
def test_so_do_a_second_and_a_third_one_after_assistance(sort):
    """Whose cache goes on from turn to turn."""
    model = SORTS[sort]()
    cache, ids = turn(model, **ASSISTANTS["noisy"](model))
    for _ in range(2):
        how = {"past_key_values": cache, **ASSISTANTS["noisy"](model)}
        assert differing(model, ids, **how) == 0
        ids = torch.cat([model.generate(ids, **SHORT, use_cache=False), _tiny.prompt(5)], 1)


def test_a_cache_without_windows_too():
    """There is nothing to be cropped that cannot be; the text stood in it twice."""
    config = transformers.LlamaConfig(
        **{**_tiny.TEXT, "num_hidden_layers": 2, "eos_token_id": HOW["suppress_tokens"][0]}
    )
    model = _tiny._seeded(transformers.LlamaForCausalLM, config)
    cache, ids = turn(model)
    assert differing(model, ids, past_key_values=cache, **ASSISTANTS["noisy"](model)) == 0


@pytest.mark.parametrize("assistant", ["noisy", "lookup"])
def test_a_mask_of_padding_is_kept(assistant):
    """Four tokens on the left are not seen, in either turn."""
    model = gemma3()
    mask = torch.ones_like(_tiny.prompt())
    mask[:, :4] = 0
    cache, ids = turn(model, attention_mask=mask)
    mask = torch.cat([mask, torch.ones(1, ids.shape[1] - mask.shape[1], dtype=mask.dtype)], 1)
    expected = model.generate(ids, attention_mask=mask, **SHORT, use_cache=False)
    more = {"past_key_values": cache, **ASSISTANTS[assistant](model)}
    seen = model.generate(ids, attention_mask=mask, **SHORT, **more)
    assert seen[:, : expected.shape[1]].equal(expected)


@each
def test_without_assistance_nothing_changes(sort):
    """The tokens were right; layers with a window keep it, and are the same objects."""
    model = SORTS[sort]()
    cache, ids = turn(model)
    before = list(cache.layers)
    assert differing(model, ids, past_key_values=cache) == 0
    assert all(one is other for one, other in zip(cache.layers, before, strict=True))
    windows = [layer for layer in cache.layers if layer.is_sliding and layer.keys is not None]
    assert {layer.keys.shape[-2] for layer in windows} == {7}


def test_only_ids_that_stand_in_the_cache_are_left_out():
    """Not those of one who hands over the new ones alone, nor embeddings, nor with an empty cache."""
    cache, ids = turn(gemma3())
    whole, held = torch.ones_like(ids), cache.get_seq_length()
    empty = transformers.DynamicCache()

    def rest(ids, cache, **more):
        return assisted_given_cache._rest(ids, {"past_key_values": cache, **more}, decoder=False)

    assert rest(ids, cache, attention_mask=whole) == ids.shape[1] - held > 0
    assert rest(ids, cache, attention_mask=whole, inputs_embeds=whole) is None
    assert rest(ids[:, held:], cache, attention_mask=whole) is None
    assert rest(ids, cache) is None
    assert rest(ids, empty, attention_mask=whole) is None
    assert rest(ids, None, attention_mask=whole) is None


def test_code_that_is_not_known_is_not_touched():
    """Assisted decoding that never runs the model, and one that fails on what it is handed."""

    class Idle(utils.GenerationMixin):
        def _assisted_decoding(self, *_, **__):
            pass

    class Failing(utils.GenerationMixin):
        def _assisted_decoding(self, *_, **__):
            raise ValueError("Cannot `crop`")

    for mixin, words in ((Idle, "not enough values"), (Failing, "Cannot `crop`")):  # UNKNOWN to the engine
        with pytest.raises(ValueError, match=words):
            assisted_given_cache.probe(SimpleNamespace(**{**vars(utils), "GenerationMixin": mixin}))


def test_it_looks_as_it_did():
    """The signatures are the upstream's, and only an affected release is touched."""
    kind = utils.GenerationMixin
    functions = [kind._assisted_decoding, kind.prepare_inputs_for_generation]
    seen = [inspect.signature(function) for function in functions]
    assert hasattr(functions[0], "__wrapped__") == (recorded(PATCH) == "AFFECTED")
    with zoo_hooks.disabled(PATCH):
        names = ("_assisted_decoding", "prepare_inputs_for_generation")
        assert [inspect.signature(getattr(kind, name)) for name in names] == seen


def test_what_a_window_has_dropped_is_zero_and_never_seen():
    """A layer that keeps all from now on has the length that it had, and its window at the end."""
    cache, _ = turn(gemma3())
    lengths = [layer.get_seq_length() for layer in cache.layers]
    windows = [(number, layer.keys) for number, layer in enumerate(cache.layers) if layer.is_sliding]
    _assisted.keep_all(cache)
    assert [layer.get_seq_length() for layer in cache.layers] == lengths
    for number, keys in windows:
        layer = cache.layers[number]
        assert layer.keys.shape[-2] == lengths[number]
        assert layer.keys[..., -keys.shape[-2] :, :].equal(keys)
        assert not layer.keys[..., : -keys.shape[-2], :].any()


def test_without_the_repair_an_affected_release_is_wrong(measured):
    """The canary's figure: it raises up to 5.14.1, and gives other tokens from 5.15 on."""
    row = measured(PATCH)
    assert row["with"] == 0
    wrong = "Cannot `crop`" in str(row["without"]) or (row["without"] != 0)
    assert wrong == (recorded(PATCH) == "AFFECTED")
