"""The module of ``trl vllm-serve`` finds vLLM's function where it looks, and nobody else does."""

from __future__ import annotations

from importlib import import_module

import guiding
import pytest
from conftest import python, recorded

import zoo_hooks

pytest.importorskip("vllm", reason="vllm is not part of this environment")

PATCH = "trl/vllm-open-port-import"
AFFECTED = recorded(PATCH) == "AFFECTED"
affected = pytest.mark.skipif(not AFFECTED, reason="this pair of releases has no such drift")


def test_without_the_repair_the_module_cannot_be_imported():
    """ImportError on an affected pair of releases, and only there."""
    assert guiding.stopped("cannot import name 'get_open_port'") == ({guiding.SERVE} if AFFECTED else set())
    assert ("Error" in guiding.without_hooks()["figures"][PATCH]) == AFFECTED
    assert guiding.with_hooks()["figures"][PATCH] == "trl.scripts.vllm_serve is there"


@affected
def test_the_name_is_there_for_one_import():
    """Afterwards vLLM is as it was."""
    serve = import_module(guiding.SERVE)
    assert zoo_hooks.report()[PATCH].status.name == "APPLIED"
    assert serve.get_open_port is import_module("vllm.utils.network_utils").get_open_port
    assert not hasattr(import_module("vllm.utils"), "get_open_port")


@affected
def test_a_tool_that_gives_the_name_back_is_not_fought():
    """Its own function, seen first, is kept, and ours is not made."""
    python(f"""
        import zoo_hooks
        from vllm import utils
        def theirs(): return 1
        utils.get_open_port = theirs
        from trl.scripts import vllm_serve
        seen = zoo_hooks.report()[{PATCH!r}].status.name
        assert seen == "NOT_NEEDED", seen
        assert vllm_serve.get_open_port is utils.get_open_port is theirs
    """)
