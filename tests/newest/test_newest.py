"""The newest releases together: a tiny real step with each works, and the hooks change none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from steps import STEPS

from zoo_hooks import catalogue

NEEDED = ("accelerate", "bitsandbytes", "datasets", "peft", "transformers", "triton", "trl", "vllm")
pytestmark = pytest.mark.skipif(
    not all(map(find_spec, NEEDED)), reason=f"{', '.join(NEEDED)} are not all part of this environment"
)


@pytest.fixture(scope="module")
def figures():
    """What each step gives, without and with the hooks."""

    def ask(hooks):
        run = subprocess.run(
            [sys.executable, Path(__file__).with_name("steps.py")],
            env=os.environ | {"ZOO_HOOKS": hooks, "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert run.returncode == 0, run.stderr
        return dict(map(json.loads, run.stdout.splitlines()))

    return ask("0"), ask("1")


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.__name__)
def test_a_step_works_and_is_the_same_with_the_hooks(step, figures):
    """An error is a candidate for a patch, or for the list of what was examined."""
    without, with_hooks = figures
    assert not isinstance(without[step.__name__], str), without[step.__name__]
    assert with_hooks[step.__name__] == without[step.__name__]


def test_the_hooks_were_on_in_one_run_and_off_in_the_other(figures):
    """The ledger of the one knows patches of each library that the steps use, that of the other none."""
    without, with_hooks = figures
    installed, statuses = without["ledger"]
    assert not installed
    assert set(statuses.values()) == {"SKIPPED"}
    installed, statuses = with_hooks["ledger"]
    assert installed
    assert set(statuses.values()) <= {"APPLIED", "NOT_NEEDED"}
    assert statuses["accelerate/replicate-parallel-import"] == "APPLIED"
    seen = {catalogue.get(name).upstream for name in statuses}
    assert seen >= {"accelerate", "datasets", "dill", "peft", "transformers", "triton", "trl", "vllm"}
