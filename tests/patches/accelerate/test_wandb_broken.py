"""accelerate, and trl behind it, with a package wandb whose import fails; the rest is as released."""

from __future__ import annotations

from importlib.util import find_spec
from types import FunctionType

import accelerate
import pytest
from conftest import child, python

from zoo_hooks.patches.accelerate import wandb_broken

PATCH = "accelerate/wandb-broken"
BEGIN = "import sys, zoo_hooks\nzoo_hooks.init()\n"
STATUS = f"print(zoo_hooks.report()[{PATCH!r}].status.name)\n"
BROKEN = "raise AttributeError('np.float_ was removed')"
WORKS = "run = None\nprint('imported')\n"
TOLD = "zoo-hooks: wandb is installed but cannot be imported (AttributeError: np.float_ was removed)"
TRY = """
import accelerate.test_utils.testing, accelerate.tracking, accelerate.utils
from accelerate import Accelerator
asks = accelerate.utils.is_wandb_available
assert asks is accelerate.utils.imports.is_wandb_available is accelerate.tracking.is_wandb_available
print("asked", asks())
for chosen in (None, "all", ["all"], "tensorboard"):
    accelerator = Accelerator(cpu=True, log_with=chosen)
    print(chosen, [str(one) for one in accelerator.log_with if str(one) != "tensorboard"])
    accelerator.init_trackers("project")
"""
BY_NAME = """
from accelerate import Accelerator
from accelerate.utils import LoggerType
for chosen in ("wandb", ["wandb"], LoggerType.WANDB, ["all", "wandb"]):
    accelerator = Accelerator(cpu=True, log_with=chosen)
    try:
        accelerator.init_trackers("project")
    except Exception as error:
        print(chosen, type(error).__name__, error)
"""


def wandb(folder, body):
    """Write a package wandb as pip leaves one; the result is the PYTHONPATH that has it."""
    (folder / "wandb").mkdir()
    (folder / "wandb" / "__init__.py").write_text(body)
    (folder / "wandb-1.dist-info").mkdir()
    (folder / "wandb-1.dist-info" / "METADATA").write_text("Name: wandb\nVersion: 1\n")
    return str(folder)


def test_without_the_repair_it_is_said_to_be_there(measured):
    """1 without, 0 with."""
    row = measured(PATCH)
    assert (row["without"], row["with"]) == (1, 0)


def test_who_does_not_name_it_does_without_and_is_told_once(tmp_path):
    """All modules have one answer, "all" leaves it out, and one warning has the error."""
    absent = python(TRY, ZOO_HOOKS="0")
    run = child(BEGIN + TRY, PYTHONPATH=wandb(tmp_path, BROKEN))
    assert run.stdout.replace("False", "None") == absent.replace("False", "None")
    assert "\nall []\n" in run.stdout
    assert run.stderr.count(TOLD) == run.stderr.count("zoo-hooks") == 1


def test_who_names_it_gets_its_own_error(tmp_path):
    """As without the hooks, by string, in a list, beside "all" and as a member of the enumeration."""
    path = wandb(tmp_path, BROKEN)
    seen = python(BEGIN + BY_NAME, PYTHONPATH=path)
    assert seen.count("AttributeError np.float_ was removed\n") == 4
    assert seen == python(BY_NAME, PYTHONPATH=path, ZOO_HOOKS="0")


def test_one_that_works_is_used_as_without_us(tmp_path):
    """Said to be there, chosen by "all", and imported when somebody asks."""
    path = wandb(tmp_path, WORKS)
    code = """
import accelerate.tracking
print("nothing yet")
print(accelerate.tracking.is_wandb_available())
print([str(one) for one in accelerate.tracking.filter_trackers(log_with="all", logging_dir=".")])
"""
    expected = python(code, PYTHONPATH=path, ZOO_HOOKS="0")
    assert "wandb" in expected
    seen = python(BEGIN + code + STATUS, PYTHONPATH=path)
    assert seen == expected.replace("yet\n", "yet\nimported\n") + "APPLIED\n"


@pytest.mark.skipif(not find_spec("trl"), reason="trl is not part of this environment")
def test_trl_imports_and_has_the_same_answer(tmp_path):
    """Trainers and callbacks; transformers and accelerate agree, and one warning is told."""
    run = child(
        BEGIN + """
import trl
from accelerate.utils import is_wandb_available as one
from transformers.integrations import is_wandb_available as other
for name in ("SFTTrainer", "DPOTrainer", "GRPOTrainer", "LogCompletionsCallback"):
    getattr(trl, name)
print(one(), other())
""", PYTHONPATH=wandb(tmp_path, BROKEN))  # fmt: skip
    assert run.stdout == "False False\n"
    assert run.stderr.count(TOLD) == run.stderr.count("zoo-hooks") == 1


@pytest.mark.parametrize("hooks", ["0", "1"])
def test_another_tool_that_does_the_same_is_not_fought(tmp_path, hooks):
    """Before us (hooks off until then) or after us, its answer stays."""
    code = BEGIN + """
import os, accelerate.utils.imports
def theirs():
    return False
accelerate.utils.imports.is_wandb_available = theirs
os.environ["ZOO_HOOKS"] = "1"
zoo_hooks.activate()
assert accelerate.utils.imports.is_wandb_available is theirs
""" + STATUS  # fmt: skip
    expected = {"0": "NOT_NEEDED\n", "1": "APPLIED\n"}[hooks]
    assert python(code, PYTHONPATH=wandb(tmp_path, BROKEN), ZOO_HOOKS=hooks) == expected


@pytest.mark.parametrize(
    ("source", "verdict"),
    [
        ("return _is_package_available('wandb')", "AFFECTED"),
        ("return _is_package_available('wandb') and imports('wandb')", "UNKNOWN"),
        ("return theirs()", "FIXED"),
        (None, "UNKNOWN"),
    ],
)
def test_the_probe_hands_off_what_it_was_not_written_for(source, verdict, monkeypatch):
    """A function that asks in another way, and one that is no function."""
    space = {}
    exec(f"def asks():\n    {source or 'pass'}", space)
    asks = space["asks"] if source else print
    assert isinstance(asks, FunctionType) == bool(source)
    monkeypatch.setattr(accelerate.utils.imports, "is_wandb_available", asks)
    assert wandb_broken.probe(accelerate.accelerator).name == verdict
