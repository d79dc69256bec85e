"""TRL 0.26 imports beside a vLLM without the module that it writes to, and the module is gone again."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec

import guiding
import pytest
from conftest import python, recorded
from guiding import TOKENIZER

import zoo_hooks

pytest.importorskip("vllm", reason="vllm is not part of this environment")

PATCH = "trl/vllm-tokenizer-import"
AFFECTED = recorded(PATCH) == "AFFECTED"
affected = pytest.mark.skipif(not AFFECTED, reason="this pair of releases has no such drift")


def test_without_the_repair_trl_cannot_be_imported():
    """ModuleNotFoundError on an affected pair of releases, and only there."""
    without = guiding.without_hooks()
    missing = f"No module named '{TOKENIZER}'"
    assert (missing in without["figures"][PATCH]) == bool(guiding.stopped(missing)) == AFFECTED
    assert guiding.with_hooks()["figures"][PATCH] == "SFTConfig is there"


@affected
def test_the_module_is_there_for_one_import():
    """Afterwards it cannot be found."""
    assert import_module("trl").SFTConfig
    assert zoo_hooks.report()[PATCH].status.name == "APPLIED"
    assert TOKENIZER not in sys.modules
    assert find_spec(TOKENIZER) is None
    assert not hasattr(import_module("vllm.transformers_utils"), "tokenizer")


@affected
def test_a_tool_that_puts_the_module_there_is_not_fought():
    """Its own, which was there first, is what TRL writes to, and stays."""
    python(f"""
        import sys, types
        import zoo_hooks
        from vllm import transformers_utils
        theirs = types.ModuleType({TOKENIZER!r})
        transformers_utils.tokenizer = sys.modules[{TOKENIZER!r}] = theirs
        import trl
        seen = zoo_hooks.report()[{PATCH!r}].status.name
        assert seen == "NOT_NEEDED", seen
        assert hasattr(theirs, "get_cached_tokenizer")
        assert sys.modules[{TOKENIZER!r}] is transformers_utils.tokenizer is theirs
    """)
