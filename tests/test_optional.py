"""What the patches for optional packages answer, which every library of the environment may ask."""

from __future__ import annotations

import importlib.util

import pytest

from zoo_hooks.changes import Changes
from zoo_hooks.patches._loading import Package
from zoo_hooks.patches._optional import Row, asking, imports_at_once

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


AT_ONCE = {
    "alone": "\nif is_it_available():\n    import it\n",
    "after another": "\nif is_a_available():\n    import a\nif is_it_available():\n    from it import x\n",
    "after empty lines": "\nif is_a_available():\n    import a\n\n\nif is_it_available():\n    import it.x\n",
    "beside another": "\nif is_a_available():\n    import a\n\n    # which has it\n    import it\n\nx = 1\n",
    "with another": "\nif is_a_available() and is_it_available():\n    import a\n    import it as b\n",
    "at the end": "\nif is_it_available():\n    pass\n    import it",
}
LATER = {
    "in a function": "\ndef f():\n    if is_it_available():\n        import it\n",
    "after the block": "\nif is_it_available():\n    x = 1\ndef f():\n    import it\n",
    "of another name": "\nif is_items_available():\n    import items\n",
    "under another question": "\nif TYPE_CHECKING:\n    import it\n",
    "nowhere": "\nif is_it_available():\n    x = 1\n",
}


@pytest.mark.parametrize(
    ("source", "expected"),
    [*((text, True) for text in AT_ONCE.values()), *((text, False) for text in LATER.values())],
    ids=[*AT_ONCE, *LATER],
)
def test_an_import_at_module_level_is_told_from_one_that_comes_later(source, expected, tmp_path):
    """In a block that asks whether the package is there, wherever that stands among other blocks."""
    (tmp_path / "utils").mkdir()
    (tmp_path / "utils" / "asks.py").touch()
    (tmp_path / "home.py").write_text(f"import x\n{source}")
    spec = importlib.util.spec_from_file_location("asks", tmp_path / "utils" / "asks.py")
    row = Row("it", ("is_it_available",), (), home="home.py")
    assert imports_at_once(importlib.util.module_from_spec(spec), row) is expected
