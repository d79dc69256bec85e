"""The files of a new patch."""

from __future__ import annotations

import pytest

from atlas import skeleton

ID, TARGET = "some_lib/odd-bug", "some_lib.core"


@pytest.fixture
def root(tmp_path):
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n### Patches\n\n- `a/b`: c.\n")
    return tmp_path


def test_a_skeleton_is_a_module_a_test_and_a_changelog_entry(root):
    """And the folder's own file where the upstream is new; each is Python, and says what is to be done."""
    made = skeleton.write(ID, TARGET, root)
    assert [str(file.relative_to(root)) for file in made] == [
        "zoo_hooks/patches/some_lib/odd_bug.py",
        "tests/patches/some_lib/test_odd_bug.py",
        "CHANGELOG.md",
    ]
    for file in made:
        assert "TODO" in file.read_text()
        if file.suffix == ".py":
            compile(file.read_text(), file, "exec")
    assert (root / "zoo_hooks/patches/some_lib/__init__.py").exists()
    assert made[-1].read_text().index(ID) < made[-1].read_text().index("a/b")


def test_the_skeleton_loads_as_a_patch(root):
    """Its probe says UNKNOWN, so that it does nothing before it is written."""
    source = skeleton.write(ID, TARGET, root)[0].read_text()
    module = {"__name__": "zoo_hooks.patches.some_lib.odd_bug"}
    exec(compile(source, "odd_bug.py", "exec"), module)
    assert module["PATCH"].id == ID
    assert module["PATCH"].probe(None).name == "UNKNOWN"


@pytest.mark.parametrize("words", [("odd-bug", TARGET), (ID, "other.core"), ("some_lib/", TARGET)])
def test_a_wrong_id_gets_one_line(root, words):
    """Nothing is written."""
    with pytest.raises(SystemExit, match="is not of the form UPSTREAM/BUG"):
        skeleton.write(*words, root)
    assert [file.name for file in root.iterdir()] == ["CHANGELOG.md"]


def test_what_is_there_is_not_overwritten(root):
    """The second time it ends with the name of the file."""
    skeleton.write(ID, TARGET, root)
    with pytest.raises(SystemExit, match=r"odd_bug\.py is there already"):
        skeleton.write(ID, TARGET, root)
