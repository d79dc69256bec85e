"""Assisted generation gives the greedy tokens, also past the window of a sliding layer."""

from __future__ import annotations

import inspect
from types import SimpleNamespace

import pytest
import torch
import transformers
from assisted import ASSISTANTS, HOW, SORTS, gemma3
from conftest import recorded
from transformers import DynamicCache
from transformers.generation import utils

import zoo_hooks
from zoo_hooks.patches.transformers import _tiny, _zero_shared, assisted_sliding_window

PATCH = "transformers/assisted-sliding-window"
knows_windows = pytest.mark.skipif(
    not _zero_shared.knows_sharing(transformers.cache_utils), reason="no such layers before 4.56.0"
)
pytestmark = knows_windows
each = pytest.mark.parametrize("sort", SORTS)


@each
@pytest.mark.parametrize("assistant", ASSISTANTS)
@pytest.mark.parametrize("length", [4, 20])
def test_the_tokens_are_the_greedy_ones(sort, assistant, length):
    """Where the window of 8 is passed by the prompt, and while generating; 0 of 16 differ."""
    model, ids = SORTS[sort](), _tiny.prompt(length)
    ids = torch.cat([ids, ids], 1) if assistant == "lookup" else ids  # something to be found
    expected = model.generate(ids, **HOW)
    seen = model.generate(ids, **HOW, **ASSISTANTS[assistant](model))
    assert seen[:, : expected.shape[1]].equal(expected)  # 5.5.0 may give one more than was asked for


@pytest.mark.parametrize("implementation", ["static", "dynamic", "dynamic_full", "offloaded"])
def test_whatever_cache_is_asked_for_the_tokens_are_the_greedy_ones(implementation):
    """Or what upstream itself says to that: some releases know no such cache, or cannot crop it."""
    model = gemma3()
    expected = model.generate(_tiny.prompt(), **HOW).tolist()

    def outcome():
        how = {**HOW, **ASSISTANTS["noisy"](model), "cache_implementation": implementation}
        try:
            return model.generate(_tiny.prompt(), **how).tolist()
        except Exception as error:  # noqa: BLE001 - it is compared
            return f"{type(error).__name__}: {error}"

    with zoo_hooks.disabled(PATCH):
        upstream = outcome()
    assert "Cannot `crop`" not in str(seen := outcome())
    assert seen in (expected, upstream)


@each
def test_the_cache_that_is_handed_back_can_be_gone_on_with(sort):
    """The next turn gives the tokens by recomputation."""
    model = SORTS[sort]()
    turn = model.generate(_tiny.prompt(), **HOW, **ASSISTANTS["noisy"](model), return_dict_in_generate=True)
    ids = torch.cat([turn.sequences, _tiny.prompt(5)], 1)
    expected = model.generate(ids, **HOW, use_cache=False)
    assert model.generate(ids, **HOW, past_key_values=_zero_shared.held(turn)).equal(expected)


@each
def test_other_generation_keeps_the_windows(sort):
    """A sliding layer holds 7 tokens of a window of 8."""
    output = SORTS[sort]().generate(_tiny.prompt(), **HOW, return_dict_in_generate=True)
    layers = _zero_shared.held(output).layers
    windows = [layer for layer in layers if getattr(layer, "is_sliding", False) and layer.keys is not None]
    assert windows
    assert {layer.keys.shape[-2] for layer in windows} == {7}


def test_a_cache_that_is_handed_in_is_left_as_it_is():
    """Its layers are those that the user made, which upstream crops or refuses."""
    model = gemma3()
    cache = DynamicCache(config=model.config)
    before = list(cache.layers)
    held = {"past_key_values": cache, "cache": cache}
    mode = utils.GenerationMode.ASSISTED_GENERATION
    model._prepare_cache_for_generation(model.generation_config, held, mode, 1, 16)
    assert all(one is other for one, other in zip(cache.layers, before, strict=True))
    assert any(layer.is_sliding for layer in cache.layers)


def test_without_a_cache_it_is_refused_as_upstream_does():
    """No cache is made for one who wants none."""
    model = gemma3()
    with pytest.raises((ValueError, RuntimeError), match=r"use_cache|requires a cache"):
        model.generate(_tiny.prompt(), **HOW, **ASSISTANTS["lookup"](model), use_cache=False)


def test_code_that_is_not_known_is_not_touched():
    """A function that takes something else in the place of the mode, and one that makes nothing."""

    class Other(utils.GenerationMixin):
        def _prepare_cache_for_generation(self, config, model_kwargs, way, batch_size, length):
            return super()._prepare_cache_for_generation(config, model_kwargs, way, batch_size, length)

    class Nothing(utils.GenerationMixin):
        def _prepare_cache_for_generation(self, config, model_kwargs, generation_mode, batch_size, length):
            pass

    with pytest.raises(KeyError, match="way"):  # UNKNOWN to the engine
        assisted_sliding_window.probe(SimpleNamespace(**{**vars(utils), "GenerationMixin": Other}))
    nothing = SimpleNamespace(**{**vars(utils), "GenerationMixin": Nothing})
    assert assisted_sliding_window.probe(nothing).name == "UNKNOWN"


def test_it_looks_as_it_did():
    """The signature is the upstream's, and only an affected release is touched."""
    function = utils.GenerationMixin._prepare_cache_for_generation
    assert (zoo_hooks.report()[PATCH].status.name == "APPLIED") == (recorded(PATCH) == "AFFECTED")
    seen = inspect.signature(function)
    with zoo_hooks.disabled(PATCH):
        assert inspect.signature(utils.GenerationMixin._prepare_cache_for_generation) == seen


def test_without_the_repair_an_affected_release_raises(measured):
    """The canary's figure: the error without, no token that differs with."""
    row = measured(PATCH)
    assert row["with"] == 0
    assert ("Cannot `crop`" in str(row["without"])) == (recorded(PATCH) == "AFFECTED")
