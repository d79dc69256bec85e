"""GIT's tokens do not depend on its cache, however the model is called."""

from __future__ import annotations

import contextlib
import copy
import inspect

import pytest
import torch
from conftest import recorded

import zoo_hooks
from zoo_hooks.patches.transformers import _cache_name
from zoo_hooks.patches.transformers.git_cache_positions import steps
from zoo_hooks.patches.transformers.git_inputs_changed import small_model

modeling = pytest.importorskip("transformers.models.git.modeling_git")
PATCH = "transformers/git-cache-positions"
IDS = torch.arange(3, 11)[None]
CACHE = _cache_name.taken(inspect.unwrap(modeling.GitForCausalLM.forward)) or "past_key_values"
from_5 = pytest.mark.skipif(
    "pixel_values_present" in inspect.signature(modeling.GitSelfAttention.forward).parameters,
    reason="before 5.0 the image is given again with each token",
)
affected = pytest.mark.skipif(recorded(PATCH) != "AFFECTED", reason="this release does not have the bug")


@pytest.fixture
def model():
    return small_model()[0]


def image():
    return small_model()[1]


def generate(model, ids=IDS, **more):
    how = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0, **more}
    return model.generate(ids, **how)


def both(model, ids=IDS, **more):
    """Tokens with the cache and without."""
    return generate(model, ids, **more), generate(model, ids, use_cache=False, **more)


@pytest.mark.parametrize("more", [{}, image()], ids=["text", "image"])
@pytest.mark.parametrize("how", [{}, {"num_beams": 3}, {"num_beams": 2, "num_return_sequences": 2}], ids=str)
def test_generated_tokens_do_not_depend_on_the_cache(model, more, how):
    """Greedy or with beams, about an image or without one."""
    with_cache, expected = both(model, **more, **how)
    assert with_cache.equal(expected)


@pytest.mark.parametrize("with_image", [False, True])
def test_padded_batches_are_right(model, with_image):
    """A shorter prompt is padded at its left, as processors of such models do."""
    mask = torch.ones(2, 8, dtype=torch.long)
    mask[0, :3] = 0
    more = {name: value.repeat(2, 1, 1, 1) for name, value in image().items()} if with_image else {}
    with_cache, expected = both(model, IDS.repeat(2, 1), attention_mask=mask, **more)
    assert with_cache.equal(expected)


@from_5
@pytest.mark.parametrize("more", [{}, image()], ids=["text", "image"])
def test_calls_step_by_step_are_right(model, more):
    """Without positions and without a mask, as in loops that people write."""
    assert steps(model, IDS, more, CACHE).equal(generate(model, use_cache=False, **more))


@from_5
@pytest.mark.parametrize("copied", [False, True])
def test_a_prompt_can_be_continued_several_times(model, copied):
    """The cache of an image and a prompt is copied for each of several continuations."""
    with torch.no_grad():
        prompt = model(IDS, use_cache=True, **image())
        for token in (5, 9):
            cache = copy.deepcopy(prompt[CACHE]) if copied else model(IDS, use_cache=True, **image())[CACHE]
            ids = torch.cat([IDS, torch.tensor([[token]])], 1)
            seen = model(ids[:, -1:], use_cache=True, **{CACHE: cache}).logits[:, -1]
            torch.testing.assert_close(seen, model(ids, use_cache=False, **image()).logits[:, -1])


@from_5
def test_positions_of_the_caller_are_taken_as_they_are(model):
    """Given by name or by place, and with a mask that covers the text."""
    with torch.no_grad():
        expected = model(IDS, use_cache=False, **image()).logits[:, -1]
        for by_place in (False, True):
            cache = model(IDS[:, :-1], use_cache=True, **image())[CACHE]
            given = torch.ones_like(IDS), torch.tensor([[IDS.shape[1] - 1]])
            call = model.git if by_place else model
            named = {} if by_place else {"attention_mask": given[0], "position_ids": given[1]}
            output = call(
                IDS[:, -1:], *(given if by_place else ()), use_cache=True, **{CACHE: cache}, **named
            )
            seen = model.output(output[0])[:, -1] if by_place else output.logits[:, -1]
            torch.testing.assert_close(seen, expected)


@from_5
def test_embeddings_in_place_of_tokens_are_right(model):
    """``inputs_embeds`` for the prompt and for the new token, where upstream takes these with a cache."""
    takes = "input_ids.shape[1] == 1" not in inspect.getsource(inspect.unwrap(modeling.GitModel.forward))
    with torch.no_grad(), contextlib.nullcontext() if takes else pytest.raises(AttributeError):
        embeds = model.get_input_embeddings()(IDS)
        cache = model(inputs_embeds=embeds[:, :-1].clone(), use_cache=True, **image())[CACHE]
        seen = model(inputs_embeds=embeds[:, -1:].clone(), use_cache=True, **{CACHE: cache}).logits[:, -1]
        torch.testing.assert_close(seen, model(IDS, use_cache=False, **image()).logits[:, -1])


@pytest.mark.parametrize("wrap", ["hook", "subclass", "forward"])
def test_hooks_and_subclasses_are_right(model, wrap):
    """A hook on the inner model, a subclass of it, and a forward of its own, as accelerate sets one."""
    if wrap == "hook":
        model.git.register_forward_pre_hook(lambda _module, args, kwargs: (args, kwargs), with_kwargs=True)
    elif wrap == "subclass":
        model.git.__class__ = type("Own", (modeling.GitModel,), {})
    else:
        model.git.forward = lambda *args, **kwargs: type(model.git).forward(model.git, *args, **kwargs)
    with_cache, expected = both(model, **image())
    assert with_cache.equal(expected)


@from_5
def test_a_tuple_as_the_result_is_right(model):
    """``return_dict=False``, where the cache is one of several values."""
    with torch.no_grad():
        first = model(IDS, use_cache=True, return_dict=False, **image())
        (cache,) = (one for one in first if isinstance(one, modeling.Cache))
        ids = torch.cat([IDS, first[0][:, -1:].argmax(-1)], 1)
        seen = model(ids[:, -1:], use_cache=True, return_dict=False, **{CACHE: cache})[0][:, -1]
        torch.testing.assert_close(seen, model(ids, use_cache=False, **image()).logits[:, -1])


def test_without_a_cache_nothing_is_changed(model):
    """Training, and a forward of the whole text, give the same bits with the repair and without."""
    given = {"input_ids": IDS, "labels": IDS, "use_cache": False, **image()}
    seen = model(**given)
    with zoo_hooks.disabled(PATCH):
        expected = model(**given)
    assert seen.loss.equal(expected.loss)
    assert seen.logits.equal(expected.logits)


@affected
def test_without_the_repair_the_tokens_are_wrong(model):
    """In ``generate`` up to 5.17.0, and in calls step by step, which raise from 5.1.0 to 5.17.0."""
    with zoo_hooks.disabled(PATCH):
        expected = generate(model, use_cache=False, **image())
        wrong = not generate(model, **image()).equal(expected)
        with contextlib.suppress(TypeError, AttributeError):
            wrong = wrong or not steps(model, IDS, image(), CACHE).equal(expected)
    assert wrong
