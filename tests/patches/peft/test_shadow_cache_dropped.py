"""Generation with a shadow adapter, whose cache holds two."""

from __future__ import annotations

import types

import peft
import prompts
import pytest
import torch
from conftest import recorded
from prompts import shadowed

import zoo_hooks
from zoo_hooks.model import Verdict

PATCH = "peft/shadow-cache-dropped"
pytestmark = pytest.mark.skipif(
    recorded(PATCH) != "AFFECTED", reason="only with peft 0.21 and transformers 5.24"
)


@pytest.mark.parametrize("how", [{}, {"num_beams": 3}, {"do_sample": True}], ids=str)
def test_tokens_are_those_without_a_cache(how):
    """Greedy, beams and sampling; with the repair off they are others."""
    assert prompts.generate(shadowed(), **how).equal(prompts.generate(shadowed(), use_cache=False, **how))
    with zoo_hooks.disabled(PATCH):
        model = shadowed()
        assert not prompts.generate(model, **how).equal(prompts.generate(model, use_cache=False, **how))


def test_the_base_model_gets_its_own_cache_and_the_shadow_the_other():
    """By the new name, by the old one, or none; other arguments come through."""
    place = peft.tuners.shadow.model.ShadowModel
    asked = []
    model = types.SimpleNamespace(
        _unpack_past_key_values=place._unpack_past_key_values,
        _shadow_path_active=lambda: True,
        _compute_initial_shadow_state=lambda *_, **given: asked.append(given["past_key_values"]) or (1, 2),
        active_adapters=["default"],
        model=None,
    )
    both = peft.tuners.shadow.layers.ShadowCache(base="base", shadow="shadow")
    for name in ("cache", "past_key_values"):
        kwargs = {"input_ids": 1, name: both, "use_cache": True}
        assert place._seed_shadow_pre_hook(model, None, (), kwargs) == (
            (), {"input_ids": 1, name: "base", "use_cache": True}
        )  # fmt: skip
        assert kwargs[name] is both
    assert place._seed_shadow_pre_hook(model, None, (), {"input_ids": 1}) == ((), {"input_ids": 1})
    assert asked == ["shadow", "shadow", None]


def test_a_disabled_adapter_gives_the_base_models_tokens():
    """And afterwards its own again."""
    model = shadowed()
    own = prompts.generate(model)
    with model.disable_adapter():
        plain = prompts.generate(model)
    assert plain.equal(prompts.base("llama").generate(
        input_ids=prompts.TEXT, attention_mask=torch.ones_like(prompts.TEXT), max_new_tokens=prompts.STEPS,
        do_sample=False,
    ))  # fmt: skip
    assert prompts.generate(model).equal(own)


def test_a_peft_that_finds_the_new_name_is_left_alone():
    """One that takes either name is right; what fails otherwise is not known, as the probe raises."""
    from zoo_hooks.patches.peft.shadow_cache_dropped import probe

    place = peft.tuners.shadow.model

    class Either(place.ShadowModel):
        def _seed_shadow_pre_hook(self, _, args, kwargs):
            name = "cache" if "cache" in kwargs else "past_key_values"
            return args, {**kwargs, name: self._unpack_past_key_values(kwargs[name])[0]}

    class Failing(place.ShadowModel):
        def _seed_shadow_pre_hook(self, *, kwargs):
            return (), kwargs

    def seen(kind):
        return probe(types.SimpleNamespace(ShadowModel=kind, ShadowCache=place.ShadowCache))

    assert seen(Either) is Verdict.FIXED
    with pytest.raises(TypeError, match="positional argument"):
        seen(Failing)


def test_a_model_from_before_activation_stays_as_it_is():
    """Its hook is bound; new ones get the repair."""

    def right(model):
        return prompts.generate(model).equal(prompts.generate(model, use_cache=False))

    with zoo_hooks.disabled(PATCH):
        early = prompts.shadowed()
    assert not right(early)
    assert right(prompts.shadowed())
