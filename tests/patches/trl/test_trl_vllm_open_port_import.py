"""The module of ``trl vllm-serve`` finds vLLM's function where it looks, and nobody else does."""

from __future__ import annotations

import pytest
from conftest import python, recorded

from zoo_hooks import catalogue, survey

pytest.importorskip("vllm", reason="vllm is not part of this environment")

PATCH = "trl-vllm-open-port-import"
AFFECTED = recorded(PATCH) == "AFFECTED"


def test_without_the_repair_the_module_cannot_be_imported():
    """ImportError on an affected pair of releases."""
    (row,) = survey.verify([catalogue.get(PATCH)])
    assert ("cannot import name 'get_open_port'" in str(row["without"])) == AFFECTED
    assert row["with"] == "get_open_port is there"


@pytest.mark.skipif(not AFFECTED, reason="this pair of releases has no such drift")
@pytest.mark.parametrize("first", [True, False])
def test_the_name_is_there_for_one_import_or_for_the_tool_that_put_it_there(first):
    """Afterwards vLLM is as it was; a tool's own function, seen first, is kept, and ours is not made."""
    python(f"""
        import zoo_hooks
        from vllm import utils
        from vllm.utils import network_utils
        def theirs(): return 1
        if {first}:
            utils.get_open_port = theirs
        from trl.scripts import vllm_serve
        seen = zoo_hooks.report()[{PATCH!r}].status.name
        assert seen == ("NOT_NEEDED" if {first} else "APPLIED"), seen
        assert vllm_serve.get_open_port is (theirs if {first} else network_utils.get_open_port)
        assert hasattr(utils, "get_open_port") == {first}
    """)
