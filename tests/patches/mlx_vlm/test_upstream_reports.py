"""The reports for upstream reproduce their bugs as they stand."""

from __future__ import annotations

import re

import pytest
from conftest import HERE, VERDICTS, python

from zoo_hooks import ledger

REPORTS = HERE.parent / "docs" / "upstream-reports.md"
NEWEST = list(VERDICTS["mlx_vlm"])[-1]


@pytest.mark.skipif(ledger.version("mlx_vlm") != NEWEST, reason=f"they are about {NEWEST}")
def test_each_report_prints_its_figure():
    """What should be 0 is more than a tenth as mlx-vlm is, and 0 but for rounding with the hooks."""
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", REPORTS.read_text(), re.MULTILINE | re.DOTALL))
    assert code.count("# should be 0") == 3
    seeded = f"import mlx.core as mx\nmx.random.seed(0)\n{code}"
    wrong, right = (
        [float(found) for found in re.findall(r"array\(([-.e\d]+)", python(seeded, **variables))]
        for variables in ({"ZOO_HOOKS": "0"}, {})
    )
    print(f"the reports: {wrong} without, {right} with the hooks")
    assert len(wrong) == len(right) == 3
    assert min(wrong) > 0.1
    assert max(right) < 1e-4
