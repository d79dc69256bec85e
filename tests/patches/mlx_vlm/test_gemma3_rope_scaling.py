"""Gemma-3 in mlx-vlm uses the rope scaling of its config, in its global layers alone."""

from __future__ import annotations

import copy

import mlx.core as mx
import pytest

import zoo_hooks
from zoo_hooks.patches.mlx_vlm import _tiny
from zoo_hooks.patches.mlx_vlm import gemma3_rope_scaling as patch

TOKENS = _tiny.prompt(60)


def scales(model):
    """Of the rotary embedding of each layer."""
    return [getattr(layer.self_attn.rope, "scale", 1.0) for layer in model.layers]


@pytest.mark.parametrize("name", ["rope_type", "type"])
def test_only_global_layers_are_scaled(name):
    """1/8 in every third layer, also in a copy; the logits differ from those without scaling."""
    model = patch._model({name: "linear", "factor": 8.0})
    for some in (model, copy.deepcopy(model)):
        assert scales(some) == [1, 1, 1 / 8] * 2
    moved = abs(model(TOKENS).logits - patch._model(None)(TOKENS).logits).max().item()
    print(f"rope_scaling moves logits by {moved:.3g}")
    assert moved > 1e-3


@pytest.mark.parametrize("scaling", [None, {"rope_type": "default"}])
def test_without_scaling_nothing_changes(scaling):
    """Bit for bit."""
    if scaling and zoo_hooks.report()[patch.PATCH.id].status.name != "APPLIED":
        pytest.skip("this release reads other types itself")
    found, scale = patch._model(scaling)(TOKENS).logits, scales(patch._model(scaling))
    assert set(scale) == {1}
    with zoo_hooks.disabled(patch.PATCH.id):
        assert mx.array_equal(patch._model(scaling)(TOKENS).logits, found)


def test_arguments_by_name_and_subclasses():
    """An attention that is created by itself, and one that is derived from it."""
    from mlx_vlm.models.gemma3 import language

    class Mine(language.Attention):
        pass

    config = patch._model(patch._LINEAR).config
    for kind in (language.Attention, Mine):
        assert kind(config, 2).rope.scale == kind(config=config, layer_idx=2).rope.scale == 1 / 8
        assert kind(config, 1).rope.scale == 1
