"""Others' hooks into generate find the cache by its old name, and may put it there."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from others import affected, future_warnings, tokens, wrong
from transformers.generation.utils import GenerationMixin

import zoo_hooks
from zoo_hooks.patches.transformers import _cache_name, _foreign

PATCH = "transformers/generation-hooks-cache-name"
UPDATE = "_update_model_kwargs_for_generation"


def derived(**functions):
    """A new class that overrides steps of generate, and counts in ``seen``."""
    return type("Derived", (transformers.LlamaForCausalLM,), {"seen": 0, **functions})


def prepare(self, input_ids, past_key_values=None, **kwargs):
    prepared = super(type(self), self).prepare_inputs_for_generation(
        input_ids, past_key_values=past_key_values, **kwargs
    )
    self.seen += prepared["past_key_values"] is not None
    return prepared


def prepare_by_keywords(self, input_ids, **kwargs):
    self.seen += kwargs.get("past_key_values") is not None
    return super(type(self), self).prepare_inputs_for_generation(input_ids, **kwargs)


def update(self, outputs, model_kwargs, *args, **kwargs):
    updated = super(type(self), self)._update_model_kwargs_for_generation(
        outputs, model_kwargs, *args, **kwargs
    )
    self.seen += updated["past_key_values"] is outputs.past_key_values
    return updated


def update_alone(self, outputs, model_kwargs, *args, **kwargs):
    self.seen += "past_key_values" in model_kwargs
    grown = {**model_kwargs}
    if grown.get("attention_mask") is not None:
        grown["attention_mask"] = torch.cat([grown["attention_mask"], torch.ones(1, 1, dtype=torch.long)], -1)
    if "position_ids" in grown:
        grown["position_ids"] = torch.cat([grown["position_ids"], grown["position_ids"][:, -1:] + 1], -1)
    grown["past_key_values"] = outputs.past_key_values
    return grown


def update_in_place(self, outputs, model_kwargs, *args, **kwargs):
    del model_kwargs["past_key_values"]
    super(type(self), self)._update_model_kwargs_for_generation(outputs, model_kwargs, *args, **kwargs)
    self.seen += model_kwargs.get("past_key_values") is not None
    return model_kwargs


def prepare_cache(self, generation_config, model_kwargs, *args, **kwargs):
    result = super(type(self), self)._prepare_cache_for_generation(
        generation_config, model_kwargs, *args, **kwargs
    )
    model_kwargs["past_key_values"] = model_kwargs.pop("past_key_values")
    self.seen += 8 * ("past_key_values" in model_kwargs)
    return result


HOOKS = {
    "prepare": {"prepare_inputs_for_generation": prepare},
    "prepare by keywords": {"prepare_inputs_for_generation": prepare_by_keywords},
    "update": {UPDATE: update},
    "update alone": {UPDATE: update_alone},
    "update in place": {UPDATE: update_in_place},
    "prepare the cache": {"_prepare_cache_for_generation": prepare_cache},
}


@pytest.mark.parametrize("name", HOOKS)
def test_a_hook_finds_the_cache_in_each_step(name):
    """Tokens are right; what it changes or returns is used."""
    model = _foreign.llama(derived(**HOOKS[name]))
    assert wrong(model) == 0
    assert model.seen == 8


@pytest.mark.parametrize("name", HOOKS)
def test_the_symptom_is_back_while_it_is_disabled(name):
    """It finds none, or raises; on releases without the bug nothing changes."""
    mended, model = affected(PATCH), _foreign.llama(derived(**HOOKS[name]))
    with zoo_hooks.disabled(PATCH):
        if mended and name in ("prepare", "update", "update in place", "prepare the cache"):
            with pytest.raises(KeyError, match="past_key_values"):
                tokens(model)
        else:
            tokens(model)
            assert (model.seen < 8) == mended


@pytest.mark.skipif(
    not hasattr(GenerationMixin, "_optimize_model_for_decode"), reason="hands it on otherwise"
)
def test_masks_of_others_are_made():
    """create_masks_for_generate is called with the new name, and a static method stays one."""

    def masks(config, inputs_embeds, attention_mask, past_key_values, position_ids=None, **_):
        from transformers.masking_utils import create_causal_mask

        known = {"past_key_values": past_key_values, "position_ids": position_ids}
        return create_causal_mask(config, inputs_embeds, attention_mask, **known)

    kind = derived(create_masks_for_generate=staticmethod(masks))
    assert isinstance(vars(kind)["create_masks_for_generate"], staticmethod)
    assert wrong(_foreign.llama(kind), cache_implementation="static", disable_compile=True) == 0


def test_a_mixin_of_others_is_seen():
    """Its hook is overridden outside of any model class."""
    mixin = type("Mixin", (GenerationMixin,), {UPDATE: update_alone})
    model = _foreign.llama(type("Mixed", (mixin, transformers.LlamaForCausalLM), {"seen": 0}))
    assert wrong(model) == 0
    assert model.seen == 8


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_below_a_model_with_a_hook_of_its_own():
    """What a hook of transformers' own models returns answers too."""

    class OwnMamba(transformers.MambaForCausalLM):  # up to 5.23.0 upstream goes by the name
        seen = 0

        def prepare_inputs_for_generation(self, *args, **kwargs):
            prepared = super().prepare_inputs_for_generation(*args, **kwargs)
            self.seen += prepared.get("cache_params") is not None
            return prepared

    assert "prepare_inputs_for_generation" in vars(transformers.MambaForCausalLM)
    config = transformers.MambaConfig(hidden_size=32, num_hidden_layers=2, vocab_size=64, state_size=4)
    model, plain = (
        _foreign._tiny._seeded(kind, config) for kind in (OwnMamba, transformers.MambaForCausalLM)
    )
    assert tokens(model).equal(tokens(plain))
    assert model.seen >= 7


def test_assistants_beams_and_static_caches():
    """Where generate uses what hooks return in other ways."""
    kind = derived(**HOOKS["update"], **HOOKS["prepare"])
    assert wrong(_foreign.llama(kind), assistant_model=_foreign.llama(kind)) == 0
    assert wrong(_foreign.llama(kind), cache_implementation="static", disable_compile=True) == 0
    assert tokens(_foreign.llama(kind), num_beams=3).equal(tokens(_foreign.llama(), num_beams=3))


def hand_on(self, input_ids, past_key_values=None, **kwargs):
    return super(type(self), self).prepare_inputs_for_generation(
        input_ids, past_key_values=past_key_values, **kwargs
    )


@pytest.mark.parametrize("functions", [
    HOOKS["prepare by keywords"], HOOKS["update alone"], {"prepare_inputs_for_generation": hand_on},
], ids=["keywords", "update", "hand on"])  # fmt: skip
def test_it_gets_no_warning_that_it_would_not_get_without(functions):
    """Upstream warns of the old name in what a hook hands on."""
    with_repair = future_warnings(lambda: _foreign.generate(_foreign.llama(derived(**functions))))
    with zoo_hooks.disabled(PATCH):
        without = future_warnings(lambda: _foreign.generate(_foreign.llama(derived(**functions))))
    assert with_repair <= without


def test_steps_that_get_a_plain_dict_are_told_of_once(caplog):
    """An own loop gets its arguments from Python; what to write stands in the log."""

    def _sample(self, *args, **model_kwargs):
        self.seen = "past_key_values" in model_kwargs
        return super(type(self), self)._sample(*args, **model_kwargs)

    with caplog.at_level("INFO", "zoo_hooks"):
        assert wrong(_foreign.llama(derived(_sample=_sample))) == 0
        derived(_sample=_sample)
    said = [record.message for record in caplog.records if "Derived._sample" in record.message]
    assert len(said) == affected(PATCH)
    assert all("model_kwargs.get('cache')" in words for words in said)


def test_hooks_that_need_nothing_are_left_alone():
    """Those of transformers, and those that know the new name."""

    def knowing(self, outputs, model_kwargs, *args, **kwargs):
        model_kwargs.get("cache", model_kwargs.get("past_key_values"))
        return GenerationMixin._update_model_kwargs_for_generation(
            self, outputs, model_kwargs, *args, **kwargs
        )

    kind = derived(**{UPDATE: knowing})
    assert vars(kind)[UPDATE] is knowing
    for name in (UPDATE, "_prepare_cache_for_generation", "_sample"):
        assert not hasattr(getattr(transformers.LlamaForCausalLM, name), "zoo_hooks_switch")


@given(
    st.lists(st.tuples(st.sampled_from(["set", "del", "pop", "setdefault", "update", "or"]),
                       st.sampled_from(["cache", "past_key_values", "cache_params", "x"]), st.integers())),
)  # fmt: skip
def test_a_dict_of_any_name_is_a_dict_in_which_the_names_are_one(steps):
    """Whatever is done to it, by whichever name, it is what a plain dict with the one name is."""
    seen, plain = _cache_name.AnyName(), {}
    for step, key, value in steps:
        one = key if key == "x" else "cache"
        if step == "set":
            seen[key] = plain[one] = value
        elif step == "update":
            seen.update({key: value})
            plain.update({one: value})
        elif step == "or":
            seen |= {key: value}
            plain |= {one: value}
        elif step == "setdefault":
            assert seen.setdefault(key, value) == plain.setdefault(one, value)
        elif step == "pop":
            assert seen.pop(key, None) == plain.pop(one, None)
        elif one in plain:
            del seen[key], plain[one]
    assert seen == plain == {**seen} == dict(seen)
    for other in (seen, seen.copy(), copy.deepcopy(seen), pickle.loads(pickle.dumps(seen))):
        for key in ("cache", "past_key_values", "cache_params"):
            assert (key in other) == ("cache" in plain)
            assert other.get(key, "none") == plain.get("cache", "none")
