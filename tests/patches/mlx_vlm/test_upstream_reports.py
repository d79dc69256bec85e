"""The reports for upstream reproduce their bugs as they stand."""

from __future__ import annotations

import re

import pytest
from conftest import ATLAS, HERE, python

from zoo_hooks import releases

REPORTS = HERE.parent / "docs" / "upstream-reports.md"
NEWEST = ATLAS.versions("mlx-vlm")[-1]


@pytest.mark.skipif(releases.version("mlx_vlm") != NEWEST, reason=f"they are about {NEWEST}")
@pytest.mark.parametrize("number", range(4))
def test_each_report_prints_its_figure(number):
    """Alone. What should be 0 is more than a tenth as mlx-vlm is, and 0 but for rounding with the hooks."""
    blocks = re.findall(r"^```python\n(.*?)^```", REPORTS.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 4
    outputs = python(blocks[number], ZOO_HOOKS="0"), python(blocks[number])
    assert all(output.startswith(f"{NEWEST} ") for output in outputs)
    wrong, right = (float(re.search(r"array\(([-.e\d]+)", output)[1]) for output in outputs)
    print(f"report {number + 1}: {wrong} without, {right} with the hooks")
    assert wrong > 0.1
    assert right < 1e-4
    assert ["[broadcast_shapes]" in output for output in outputs] == [number == 3, False]
