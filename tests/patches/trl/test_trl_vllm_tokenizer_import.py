"""TRL 0.26 imports beside a vLLM without the module that it writes to, and the module is gone again."""

from __future__ import annotations

import pytest
from conftest import python, recorded

from zoo_hooks import catalogue, survey

pytest.importorskip("vllm", reason="vllm is not part of this environment")

PATCH = "trl-vllm-tokenizer-import"
AFFECTED = recorded(PATCH) == "AFFECTED"


def test_without_the_repair_trl_cannot_be_imported():
    """ModuleNotFoundError on an affected pair of releases."""
    (row,) = survey.verify([catalogue.get(PATCH)])
    missing = "No module named 'vllm.transformers_utils.tokenizer'"
    assert (missing in str(row["without"])) == AFFECTED
    assert row["with"] == "SFTConfig is there"


@pytest.mark.skipif(not AFFECTED, reason="this pair of releases has no such drift")
@pytest.mark.parametrize("first", [True, False])
def test_the_module_is_there_for_one_import_or_for_the_tool_that_put_it_there(first):
    """Afterwards it cannot be found; a tool's own, which was there first, is what TRL writes to."""
    python(f"""
        import sys, types
        from importlib.util import find_spec
        import zoo_hooks
        name = "vllm.transformers_utils.tokenizer"
        theirs = types.ModuleType(name)
        if {first}:
            from vllm import transformers_utils
            transformers_utils.tokenizer = sys.modules[name] = theirs
        import trl
        seen = zoo_hooks.report()[{PATCH!r}].status.name
        assert seen == ("NOT_NEEDED" if {first} else "APPLIED"), seen
        assert hasattr(theirs, "get_cached_tokenizer") == {first}
        assert (sys.modules.get(name) is theirs) == {first}
        assert {first} or find_spec(name) is None
        from vllm import transformers_utils
        assert hasattr(transformers_utils, "tokenizer") == {first}
    """)
