"""accelerate with trackers whose import fails; the rest is as released."""

from __future__ import annotations

import pytest
from conftest import child, python
from optional_packages import BEGIN, SYMBOL, package, status, tries

PATCH = "accelerate/trackers-broken"
NAMES = ("clearml", "comet_ml", "dvclive", "mlflow", "swanlab", "trackio", "tensorboard")
TRY = """
import tempfile
from accelerate import Accelerator
def started(**asked):
    one = Accelerator(cpu=True, project_dir=tempfile.mkdtemp(), **asked)
    one.init_trackers("project")
    return [tracker.name for tracker in one.trackers]
"""


def test_without_the_repair_all_trackers_cannot_be_started(measured):
    """The error of a package's own body."""
    row = measured(PATCH)
    assert row["without"].endswith(SYMBOL)
    assert row["with"] == "imported"


@pytest.mark.parametrize("name", NAMES)
def test_all_leaves_it_out_and_who_names_it_gets_its_error(tmp_path, name):
    """One warning; in a list too, "all" does not hide what is named beside it."""
    asked = tries(
        all='started(log_with="all")',
        named=f"started(log_with={name!r})",
        listed=f"started(log_with=['all', {name!r}])",
    )
    seen = child(BEGIN + TRY + asked + status(PATCH), PYTHONPATH=package(tmp_path, name))
    error = f"ImportError {name}: {SYMBOL}"
    assert seen.stdout.split("\n")[:3] == ["all []", f"named {error}", f"listed {error}"]
    assert "APPLIED" in seen.stdout
    assert seen.stderr.count(f"zoo-hooks: {name} is installed but cannot be imported") == 1


def test_tensorboard_x_takes_the_place_of_an_absent_tensorboard(tmp_path):
    """By "all", as without the hooks."""
    writer = "class SummaryWriter:\n    def __init__(self, *args, **kwargs): pass\n    close = __init__\n"
    path = package(tmp_path, "tensorboardX", writer)
    code = (
        "import sys\nsys.modules['tensorboard'] = None\n" + BEGIN + TRY + tries(all='started(log_with="all")')
    )
    assert python(code, PYTHONPATH=path) == "all ['tensorboard']\n"
    assert python(code, PYTHONPATH=path, ZOO_HOOKS="0") == "all ['tensorboard']\n"


def test_one_that_works_is_started_as_without_us(tmp_path):
    """By "all", given by position or by name; one that is not asked for is not loaded."""
    works = "class _Run:\n    def __init__(self, *args, **kwargs): pass\ninit = _Run\nconfig = {}\n"
    path = package(tmp_path, "swanlab", works)
    asked = TRY + "print('swanlab' in __import__('sys').modules)\nAccelerator(cpu=True)\n"
    asked += "print('swanlab' in __import__('sys').modules)\n" + tries(all='started(log_with="all")')
    asked += (
        "from accelerate.tracking import filter_trackers\nprint([str(one) for one in filter_trackers('all')])"
    )
    seen = python(BEGIN + asked, PYTHONPATH=path)
    assert seen == python(BEGIN + asked, PYTHONPATH=path, ZOO_HOOKS="0")
    assert seen == "False\nFalse\nall ['swanlab']\n['swanlab']\n"
