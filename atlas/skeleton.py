"""The files of a new patch, to be filled in: its module, its test, its changelog entry."""

from __future__ import annotations

import sys
from pathlib import Path

from atlas import ROOT

MODULE = '''"""TODO: what is wrong, in one line.

Symptom
-------
TODO: what a user sees, on which models, with the error's own words. Say so where nothing is seen.

Cause
-----
TODO: the upstream code that does it, and why.

Repair
------
TODO: what is changed, and who can see the change.
"""

from __future__ import annotations

from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict


def probe(module: Any) -> Verdict:
    return Verdict.UNKNOWN  # TODO: run the faulty code on a small input, and compare


def repair(module: Any, changes: Changes) -> None:
    raise NotImplementedError  # TODO: changes.wrap(owner, name, make) or changes.replace(owner, name, value)


def canary() -> Figure:
    value = 1.0  # TODO: a small real run, wrong without the repair
    return Figure(value, healthy=value == 0)


PATCH = Patch(
    module=__name__,
    title="TODO: the docstring's first line, without its full stop",
    severity="crash",
    symptoms=("TODO: the error text @ function or module; drop it if nothing is raised",),
    targets=("{target}",),
    affects=("{distribution}>=0",),
    links=("https://TODO",),
    measures="TODO: what the figure counts, with its unit (expected: 0)",
    probe=probe,
    repair=repair,
    canary=canary,
)
'''
TEST = '''"""{title}, on the real {distribution}."""

from __future__ import annotations

import pytest
from conftest import recorded

from zoo_hooks import catalogue

PATCH = catalogue.get("{id}")
AFFECTED = recorded(PATCH.id) == "AFFECTED"


@pytest.mark.skipif(not AFFECTED, reason="this release does not have the bug")
def test_the_figure_is_right_with_the_repair():
    """TODO: wrong without the hooks (see it red with ZOO_HOOKS=0), right with them."""
    assert PATCH.canary().healthy
'''
HEADING = "### Patches\n\n"


def write(patch_id: str, target: str, root: Path = ROOT) -> list[Path]:
    """Write the files; returns their paths. Ends the program where one is there, or the id is none."""
    upstream, slash, bug = patch_id.partition("/")
    if not slash or not bug or upstream != target.partition(".")[0].replace("-", "_"):
        sys.exit(f"atlas: {patch_id!r} is not of the form UPSTREAM/BUG, with the package of {target!r} first")
    name = bug.replace("-", "_")
    words = {
        "id": patch_id,
        "target": target,
        "distribution": upstream.replace("_", "-"),
        "title": bug.replace("-", " ").capitalize(),
    }
    files = {
        root / "zoo_hooks" / "patches" / upstream / f"{name}.py": MODULE.replace("{target}", target).replace(
            "{distribution}", words["distribution"]
        ),
        root / "tests" / "patches" / upstream / f"test_{name}.py": TEST.format(**words),
    }
    if there := [file for file in files if file.exists()]:
        sys.exit(f"atlas: {there[0]} is there already")
    for file, text in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    package = root / "zoo_hooks" / "patches" / upstream / "__init__.py"
    if not package.exists():
        package.write_text(f'"""Patches of {words["distribution"]}."""\n', encoding="utf-8")
    log = root / "CHANGELOG.md"
    entry = f"- `{patch_id}`: TODO: what users gain, and on which releases.\n"
    log.write_text(log.read_text(encoding="utf-8").replace(HEADING, HEADING + entry, 1), encoding="utf-8")
    return [*files, log]
