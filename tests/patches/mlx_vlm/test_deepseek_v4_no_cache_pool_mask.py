"""DeepSeek-V4 in mlx-vlm without a KV cache: the logits of a cache, and causal training."""

from __future__ import annotations

import copy

import mlx.core as mx
import pytest
from mlx import nn
from mlx.utils import tree_flatten

import zoo_hooks
from zoo_hooks.patches.mlx_vlm import _tiny

pytest.importorskip("mlx_vlm.models.deepseek_v4")
from zoo_hooks.patches.mlx_vlm import deepseek_v4_no_cache_pool_mask as patch

TOKENS = _tiny.prompt(24, batch=2)
OTHER = mx.concatenate([TOKENS[:, :-1], TOKENS[:, -1:] + 1], axis=1)


@pytest.fixture(scope="module")
def model():
    return patch._model()


def largest(one, other):
    return abs(one - other).max().item()


def loss(some, tokens=TOKENS[:, :11]):  # with more compressed keys than index_topk, mlx has no gradients
    return nn.losses.cross_entropy(some(tokens).logits[:, :-1], tokens[:, 1:]).mean()


@pytest.mark.parametrize("length", [1, 3, 4, 7, 24])
def test_the_logits_are_those_of_a_cache(model, length):
    """Within 1e-4, at each length; without the repair they differ from the first whole block on."""
    tokens = TOKENS[:, :length]
    right = model(tokens, cache=model.make_cache()).logits
    assert largest(model(tokens).logits, right) < 1e-4
    with zoo_hooks.disabled(patch.PATCH.id):
        wrong = largest(model(tokens).logits, right)
    print(f"{length} tokens: off by {wrong:.3g} without the hooks")
    assert (wrong > 0.1) == (length >= 4)


def test_the_last_token_moves_no_earlier_logit(model):
    """Difference 0.0, for a copy and with the arguments of a layer by name and by position."""
    for some in (model, copy.deepcopy(model)):
        assert largest(some(TOKENS).logits[:, :-1], some(OTHER).logits[:, :-1]) == 0
    layer, x = model.layers[1].attn, mx.sin(mx.arange(24 * 32)).reshape(1, 24, 32)
    mask = mx.tril(mx.ones((24, 24), dtype=mx.bool_))
    assert mx.array_equal(layer(x, mask, None), layer(x=x, mask=mask, cache=None))
    ahead = mx.concatenate([x[:, :-1], -x[:, -1:]], axis=1)
    assert largest(layer(x, mask)[:, :-1], layer(ahead, mask)[:, :-1]) == 0


def test_a_cache_gives_what_it_gave(model):
    """Bit for bit, in the prompt and in a step after it."""

    def run():
        cache = model.make_cache()
        return [model(part, cache=cache).logits for part in (TOKENS[:, :20], TOKENS[:, 20:21])]

    right = run()
    with zoo_hooks.disabled(patch.PATCH.id):
        assert all(mx.array_equal(*pair) for pair in zip(right, run(), strict=True))


def test_gradients_are_the_same_with_checkpoints(model):
    """Of a training step; and they are finite."""
    value, right = nn.value_and_grad(model, loss)(model)
    checkpointed = mx.checkpoint(lambda weights: loss(model.update(weights)))
    again, found = mx.value_and_grad(checkpointed)(model.trainable_parameters())
    assert value.item() == pytest.approx(again.item(), abs=1e-6)
    for (name, one), (_, other) in zip(tree_flatten(right), tree_flatten(found), strict=True):
        assert mx.isfinite(one).all(), name
        assert largest(one, other) < 1e-5, name
    with zoo_hooks.disabled(patch.PATCH.id):
        print(f"loss {value.item():.4f}, without the hooks {loss(model).item():.4f}")
