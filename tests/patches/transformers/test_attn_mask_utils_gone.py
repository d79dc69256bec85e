"""The masks of transformers.modeling_attn_mask_utils are there, and are those of upstream."""

from __future__ import annotations

import importlib
import inspect
import sys
from importlib.util import find_spec

import pytest
import torch
from conftest import child
from hypothesis import given, settings
from hypothesis import strategies as st
from others import affected
from transformers import cache_utils

import zoo_hooks
from zoo_hooks.patches.transformers import _attn_mask_utils

assert cache_utils  # the module is repaired as this is imported

PATCH = "transformers/attn-mask-utils-gone"
NAME = "transformers.modeling_attn_mask_utils"
FUNCTIONS = [
    name for name, value in vars(_attn_mask_utils).items() if inspect.isfunction(value) and "4d" in name
]
EMBEDDED = st.sampled_from([torch.float32, torch.float16, torch.bfloat16])


@st.composite
def cases(draw):
    """Rows, padding on either side or anywhere, keys that were there before, a window or none, a dtype."""
    rows, length, past = draw(st.integers(1, 2)), draw(st.integers(1, 5)), draw(st.integers(0, 4))
    seen = draw(st.lists(st.booleans(), min_size=rows * (length + past), max_size=rows * (length + past)))
    padding = torch.tensor(seen).reshape(rows, length + past).long()
    return rows, length, past, padding, draw(st.none() | st.integers(1, 6)), draw(EMBEDDED)


def same(one, other):
    return one is other is None or (one.dtype == other.dtype and one.equal(other))


@pytest.mark.skipif(affected(PATCH), reason="this release has no such module of its own")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@given(cases(), st.booleans())
def test_each_function_gives_what_upstream_gave(case, whole):
    """For every mask; where upstream has the module it is compared with, value by value."""
    theirs, rows_length_past, padding = importlib.import_module(NAME), case[:3], case[3]
    (rows, length, past), window, dtype = rows_length_past, case[4], case[5]
    if whole:
        padding = torch.ones_like(padding)
    embedded, ours = torch.zeros(rows, length, 1, dtype=dtype), _attn_mask_utils
    full = torch.ones(rows, 1, length, length + past, dtype=dtype).tril(past)
    for name in ("_prepare_4d_causal_attention_mask", "_prepare_4d_causal_attention_mask_for_sdpa"):
        for given_mask in (None, padding, full):
            known = given_mask, (rows, length), embedded, past, window
            assert same(getattr(ours, name)(*known), getattr(theirs, name)(*known)), name
    for name in ("_prepare_4d_attention_mask", "_prepare_4d_attention_mask_for_sdpa"):
        for target in (None, length):
            assert same(
                getattr(ours, name)(padding, dtype, target), getattr(theirs, name)(padding, dtype, target)
            )
    known = (rows, length), dtype, "cpu", past, window
    assert same(
        ours._create_4d_causal_attention_mask(*known), theirs._create_4d_causal_attention_mask(*known)
    )
    for causal in (True, False):
        made = [
            module.AttentionMaskConverter(causal, None if not causal else window) for module in (ours, theirs)
        ]
        assert same(*(each.to_4d(padding, length, dtype, length + past) for each in made))
        lowest = torch.finfo(dtype).min
        scores = full.log().clamp(min=lowest)
        assert same(*(each._unmask_unattended(scores, lowest) for each in made))


@pytest.mark.skipif(affected(PATCH), reason="this release has no such module of its own")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_what_upstream_refused_is_refused():
    """With the same errors."""
    theirs = importlib.import_module(NAME)
    for module in (_attn_mask_utils, theirs):
        make = module.AttentionMaskConverter
        for wrong in (
            lambda make=make: make(True, 0),  # noqa: FBT003
            lambda make=make: make(False).to_causal_4d(1, 2, 2, torch.float32),  # noqa: FBT003
            lambda make=make: make(True).to_4d(torch.ones(1, 2), 2, torch.float32),  # noqa: FBT003
            lambda make=make: make._unmask_unattended(torch.ones(1, dtype=torch.bool), 0),
            lambda module=module: module._prepare_4d_causal_attention_mask(
                torch.ones(1, 1, 2, 3), (1, 2), torch.ones(1, 2, 1), 0
            ),
        ):
            with pytest.raises(ValueError, match=r"."):
                wrong()
        with pytest.raises(NotImplementedError):
            make(False, 2).to_4d(torch.ones(1, 2), 2, torch.float32)  # noqa: FBT003
    ours = {name: inspect.signature(getattr(_attn_mask_utils, name)) for name in FUNCTIONS}
    assert {name: list(signature.parameters) for name, signature in ours.items()} == {
        name: list(inspect.signature(getattr(theirs, name)).parameters) for name in FUNCTIONS
    }


@pytest.mark.skipif(not find_spec("transformers.masking_utils"), reason="this release has no other masks")
@settings(max_examples=30)
@given(cases())
def test_masks_are_those_of_what_came_after(case):
    """The masks that models of this release make, where at least one key is seen."""
    from transformers.masking_utils import eager_mask

    rows, length, past, padding, _, dtype = case
    seen = padding.bool()[:, None, None].expand(rows, 1, length, length + past)
    causal = torch.ones(length, length + past, dtype=torch.bool).tril(past)
    mask = _attn_mask_utils.AttentionMaskConverter(is_causal=True).to_4d(
        padding, length, dtype, length + past
    )
    expected = torch.zeros(mask.shape, dtype=dtype).masked_fill(~(seen & causal), torch.finfo(dtype).min)
    assert mask.equal(expected if length > 1 else expected.where(seen, torch.finfo(dtype).min))
    assert callable(eager_mask)


def test_importers_find_it():
    """By each way of import, and find_spec."""
    from transformers import modeling_attn_mask_utils as by_name

    assert find_spec(NAME)
    assert importlib.import_module(NAME) is by_name is sys.modules[NAME]
    assert (by_name is _attn_mask_utils) == affected(PATCH)


def test_it_is_gone_while_it_is_disabled():
    """On an affected release; on others nothing changes."""
    mended = affected(PATCH)
    with zoo_hooks.disabled(PATCH):
        assert (find_spec(NAME) is None) == mended
    assert find_spec(NAME)


def test_a_first_import_from_a_fresh_process_finds_it():
    """As FlagEmbedding does it: after the cache, and before any model."""
    code = f"""
        from transformers.cache_utils import Cache
        from {NAME} import AttentionMaskConverter, _prepare_4d_causal_attention_mask
        print("found")
    """
    assert child(code).stdout.split()[-1] == "found"


def test_torch_compile_makes_one_graph_of_them():
    """As models did that made masks by them."""
    whole = torch.compile(
        _attn_mask_utils._prepare_4d_causal_attention_mask_for_sdpa, fullgraph=True, backend="eager"
    )
    padding, embedded = torch.tensor([[0, 1, 1]]), torch.zeros(1, 3, 1)
    expected = _attn_mask_utils._prepare_4d_causal_attention_mask(padding, (1, 3), embedded, 0)
    assert whole(padding, (1, 3), embedded, 0).equal(expected)
