"""Layers of a cache have the dtype of their keys."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from others import affected
from transformers import cache_utils

import zoo_hooks

PATCH = "transformers/cache-layer-dtype"

if not hasattr(cache_utils, "DynamicSlidingWindowLayer"):
    pytest.skip("caches of this release have no layers", allow_module_level=True)

NAMES = ["DynamicLayer", "DynamicSlidingWindowLayer", "StaticLayer"]


def layer_of(name):
    kind = getattr(cache_utils, name)
    return {"StaticLayer": lambda: kind(max_cache_len=4)}.get(
        name, lambda: kind(*([8] * ("Sliding" in name)))
    )()


def fill(layer, dtype=torch.bfloat16):
    keys = torch.zeros(2, 1, 1, 1, 1, dtype=dtype)
    layer.update(*keys, {"cache_position": torch.arange(1)})
    return layer


@pytest.mark.parametrize("name", NAMES)
def test_it_is_that_of_the_keys_once_there_are_any(name):
    """And before that there is none, nor has the class one."""
    layer = layer_of(name)
    assert not hasattr(layer, "dtype")
    assert not hasattr(type(layer), "dtype")
    with pytest.raises(AttributeError, match=f"'{name}' object has no attribute 'dtype'"):
        layer.dtype  # noqa: B018 - it raises
    for other in (fill(layer), copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert other.dtype == torch.bfloat16


def test_what_a_layer_of_others_has_set_itself_is_that():
    """As their lazy initialization does."""

    class Own(cache_utils.DynamicLayer):
        def lazy_initialization(self, *states):
            super().lazy_initialization(*states)
            self.dtype = torch.float16

    assert fill(Own()).dtype == torch.float16


def test_it_is_gone_while_it_is_disabled():
    """On an affected release; on others nothing changes."""
    mended = affected(PATCH)
    with zoo_hooks.disabled(PATCH):
        assert hasattr(fill(cache_utils.DynamicLayer()), "dtype") != mended
        assert ("dtype" in vars(cache_utils.StaticLayer)) is False


def test_torch_compile_reads_it():
    """In one graph."""
    layer = fill(cache_utils.DynamicLayer())
    whole = torch.compile(lambda hidden: hidden.to(layer.dtype), fullgraph=True, backend="eager")
    assert whole(torch.ones(1)).dtype == torch.bfloat16
