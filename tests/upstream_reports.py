"""The reports for upstream reproduce their bugs as they stand."""

from __future__ import annotations

import re

import pytest
from conftest import ATLAS, HERE, installed, python

UPSTREAMS = ("mlx-vlm", "mlx-lm", "compressed-tensors", "peft", "transformers")
WRONG, RIGHT = 0.01, 1e-4


def scripts(page: str) -> list[str]:
    """The scripts of a page of reports, in its order."""
    text = (HERE.parent / "docs" / f"{page}.md").read_text(encoding="utf-8")
    found = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert found
    return found


def check(script: str) -> None:
    """Run a script without and with the hooks; it is about the newest releases of what it imports."""
    about = [name for name in UPSTREAMS if f"import {name.replace('-', '_')}\n" in script]
    newest = {name: ATLAS.versions(name)[-1] for name in about}
    if {name: installed(name) for name in about} != newest:
        pytest.skip(f"it is about {newest}")
    outputs = python(script, ZOO_HOOKS="0"), python(script)
    assert all(output.startswith(newest[about[0]]) for output in outputs)
    (wrong, raised), (right, raised_with_hooks) = map(_figures, outputs)
    print(f"{wrong} without, {right} with the hooks; raised: {raised}")
    assert wrong or raised
    assert all(figure > WRONG for figure in wrong)
    assert right
    assert all(abs(figure) < RIGHT for figure in right)
    assert bool(raised) == ("except" in script)
    assert not raised_with_hooks


def _figures(output: str) -> tuple[list[float], list[str]]:
    """What ends the lines after the first, and lines that end in no figure: texts of errors."""
    lines = output.splitlines()[1:]
    found = [re.search(r"(?:^| )([-+.e\d]+)$", line) for line in lines]
    return [float(one[1]) for one in found if one], [
        line for line, one in zip(lines, found, strict=True) if not one
    ]
