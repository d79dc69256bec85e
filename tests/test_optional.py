"""What the patches for optional packages answer, which every library of the environment may ask."""

from __future__ import annotations

import pytest

from zoo_hooks.changes import Changes
from zoo_hooks.patches._loading import Package
from zoo_hooks.patches._optional import Row, asking

NAME = "zoo_absent"
ASKS = {
    "names the package": f"def asks(): return answer if {NAME} else answer",
    "asks for its version": "def asks(f=dict): return answer if f(return_version=True) else answer",
    "reads a flag": "def asks(): return answer",
}


@pytest.mark.parametrize("answer", [False, None, 0])
@pytest.mark.parametrize("source", ASKS.values(), ids=ASKS)
@pytest.mark.parametrize("broken", [None, ImportError("undefined symbol")])
def test_that_a_package_is_not_there_is_said_as_upstream_says_it(answer, source, broken):
    """Whatever its function does to find out, and whatever is known of the package."""
    package = Package(NAME)
    package.error = broken
    names = {NAME: True, "answer": answer}
    exec(source, names)
    asks = asking(names["asks"], package, Row(NAME, (), ()), Changes())
    assert asks() is answer
