"""Gemma-3n in mlx-vlm is that of transformers on texts that are longer than its window."""

from __future__ import annotations

from contextlib import nullcontext

import mlx.core as mx
import pytest
from conftest import recorded
from mlx_shared_kv import WITHIN, largest, oracle

import zoo_hooks
from zoo_hooks.patches.mlx_lm import _tiny

PATCH = "mlx_vlm/gemma3n-sliding-window"
LENGTH = 20  # the window is 8
AFFECTED = recorded(PATCH) == "AFFECTED"
PARTS = {"without a cache": None, "prefill": [20], "prefill in parts": [3, 9, 4, 4], "decode": [9, *[1] * 11]}


def off():
    return zoo_hooks.disabled(PATCH) if AFFECTED else nullcontext()


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("how", PARTS)
def test_logits_beyond_the_window_are_the_oracles(how, checkpointed):
    """Within 1e-4; without the repair they are off by more than a tenth."""
    model, tokens = _tiny.gemma3n(), _tiny.prompt(LENGTH)
    expected, _ = oracle("gemma3n", LENGTH)
    if checkpointed:
        _tiny.checkpoint(model.layers)

    def logits():
        if PARTS[how] is None:
            return _tiny.logits(model, tokens)
        cache, ends = model.make_cache(), [sum(PARTS[how][:n]) for n in range(1, len(PARTS[how]))]
        return mx.concatenate(
            [_tiny.logits(model, part, cache) for part in mx.split(tokens, ends, axis=1)], axis=1
        )

    right = largest(logits(), expected)
    with off():
        wrong = largest(logits(), expected)
    print(f"gemma3n, 20 tokens, window 8, {how}: {wrong:.2g} without, {right:.2g} with the hooks")
    assert right < WITHIN
    assert (wrong > 0.1) == AFFECTED


def test_kv_gradients_beyond_the_window_are_the_oracles():
    """Each within 1e-4, relative."""
    model, tokens = _tiny.gemma3n(), _tiny.prompt(LENGTH)
    _, expected = oracle("gemma3n", LENGTH)
    expected = {f"model.{name.removeprefix('model.')}": gradient for name, gradient in expected.items()}
    right = _tiny.error(expected, _tiny.kv_gradients(model, tokens))
    with off():
        wrong = _tiny.error(expected, _tiny.kv_gradients(model, tokens))
    print(f"gemma3n, 20 tokens, window 8, K/V gradients: {wrong:.2g} without, {right:.2g} with the hooks")
    assert right < WITHIN
    assert (wrong > 0.1) == AFFECTED


def test_what_has_no_more_keys_than_the_window_is_as_it_was():
    """Bit for bit: short texts, without a cache and with one, and masks that a caller gives."""
    model, tokens = _tiny.gemma3n(), _tiny.prompt(LENGTH)
    square = mx.tril(mx.ones((LENGTH, LENGTH), dtype=mx.bool_))

    def outputs():
        return [
            _tiny.logits(model, tokens[:, :8]),
            _tiny.logits(model, tokens[:, :8], model.make_cache()),
            model(tokens, mask=square).logits,
        ]

    right = outputs()
    with off():
        assert all(mx.array_equal(*pair) for pair in zip(outputs(), right, strict=True))
