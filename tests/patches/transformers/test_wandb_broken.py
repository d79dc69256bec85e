"""transformers with a package wandb whose import fails; the rest is as released."""

from __future__ import annotations

from types import ModuleType

import pytest
from conftest import child, installed, python, recorded
from packaging.version import Version

from zoo_hooks.patches.transformers import wandb_broken

PATCH = "transformers/wandb-broken"
BEGIN = "import sys, zoo_hooks\nzoo_hooks.init()\n"
EARLY = Version(installed("transformers")) < Version("4.55")  # only looks whether there is a wandb
STATUS = f"print(zoo_hooks.report()[{PATCH!r}].status.name)\n"
BROKEN = "raise AttributeError('np.float_ was removed')"
WORKS = "run = None\nprint('imported')\n"
TRY = """
import tempfile, torch
from transformers import Trainer, TrainingArguments, hyperparameter_search, integrations, trainer_utils

folder = tempfile.mkdtemp()
model = torch.nn.Linear(2, 2)
calls = {
    "available": integrations.is_wandb_available,
    "by default": lambda: "wandb" in TrainingArguments(folder, use_cpu=True).report_to,
    "all": lambda: "wandb" in TrainingArguments(folder, use_cpu=True, report_to="all").report_to,
    "by name": lambda: TrainingArguments(folder, use_cpu=True, report_to="wandb").report_to,
    "search": hyperparameter_search.WandbBackend.is_available,
    "default search": lambda: trainer_utils.default_hp_space_wandb(None),
    "callback": integrations.WandbCallback,
}
for report_to in ("none", "all", "wandb"):
    calls["train " + report_to] = lambda report_to=report_to: type(Trainer(
        model=model, args=TrainingArguments(folder, use_cpu=True, report_to=report_to)
    ))
for name, call in calls.items():
    try:
        print(name, call())
    except Exception as error:
        print(name, type(error).__name__, str(error))
"""


def wandb(folder, body):
    """Write a package wandb; the result is the PYTHONPATH that has it before any installed one."""
    (folder / "wandb").mkdir()
    (folder / "wandb" / "__init__.py").write_text(body)
    return str(folder)


@pytest.fixture(autouse=True, scope="module")
def _needs_the_bug():
    if recorded(PATCH) != "AFFECTED":
        pytest.skip("this release finds out by itself that wandb cannot be imported")


@pytest.fixture(scope="module")
def without_wandb():
    """What is printed by a process in which wandb cannot be found."""
    hide = "import importlib.util as u\nfind = u.find_spec\n"
    hide += "u.find_spec = lambda name, *more: None if name == 'wandb' else find(name, *more)\n"
    return python(hide + TRY, ZOO_HOOKS="0")


def test_without_the_repair_arguments_that_report_to_all_raise(measured):
    """The error of wandb's own body, or in early releases none yet; with the repair nothing is reported."""
    row = measured(PATCH)
    assert row["without"] == (1 if EARLY else "AttributeError: np.float_ was removed")
    assert row["with"] == 0


def test_without_the_repair_no_trainer_can_be_made(tmp_path):
    """The same error, when nobody has named wandb."""
    seen = python(TRY, PYTHONPATH=wandb(tmp_path, BROKEN), ZOO_HOOKS="0")
    assert "train all AttributeError np.float_ was removed\n" in seen
    assert "train none <class" in seen


@pytest.mark.parametrize(
    ("body", "error"),
    [(BROKEN, "AttributeError np.float_ was removed"), ("raise ImportError('lib')", "ImportError lib")],
)
def test_who_names_it_gets_its_own_error_and_all_else_is_as_if_it_were_not_installed(
    tmp_path, without_wandb, body, error
):
    """Each answer and each error, also of callbacks and Trainers, whatever the import raises."""
    named = "callback", "train wandb"
    expected = [
        next((f"{name} {error}" for name in named if line.startswith(name)), line)
        for line in without_wandb.splitlines()
    ]
    assert len(expected) - len(set(expected) & set(without_wandb.splitlines())) == len(named)
    assert python(BEGIN + TRY, PYTHONPATH=wandb(tmp_path, body)).splitlines() == expected
    assert "available False\nby default False\nall False\n" in without_wandb
    assert "train all <class" in without_wandb


def test_one_that_works_is_used_as_without_us(tmp_path):
    """Available, reported to and imported once, at the same moment: when transformers asks.

    Early releases import it later, for what they report to it.
    """
    path = wandb(tmp_path, WORKS)
    code = """
from transformers import Trainer, integrations
from transformers.integrations import integration_utils
print("nothing yet")
print(integrations.is_wandb_available(), "wandb" in integrations.get_available_reporting_integrations())
"""
    expected = "nothing yet\nimported\nTrue True\n"
    assert python(BEGIN + code, PYTHONPATH=path) == expected
    as_released = expected.replace("imported\n", "") if EARLY else expected
    assert python(code, PYTHONPATH=path, ZOO_HOOKS="0") == as_released


def test_modules_that_copied_its_name_before_the_hooks_came_ask_the_repaired_function():
    """All of them the same one, which passes for transformers' own."""
    code = (
        BEGIN
        + """
import os
import transformers.hyperparameter_search as early
os.environ["ZOO_HOOKS"] = "1"
zoo_hooks.activate()
from transformers import integrations, is_wandb_available
from transformers.integrations import integration_utils
assert early.is_wandb_available is is_wandb_available is integrations.is_wandb_available
assert is_wandb_available is integration_utils.is_wandb_available
assert is_wandb_available.__module__ == "transformers.integrations.integration_utils"
assert is_wandb_available.__code__.co_filename == _broken.__file__
""".replace("import os\n", "import os\nfrom zoo_hooks.patches import _broken\n")
    )
    python(code, ZOO_HOOKS="0")


def test_it_is_told_once_and_undone_and_nothing_is_imported_to_find_it(tmp_path):
    """One warning with the error, however often it is asked; undoing brings back the error."""
    code = BEGIN + f"""
from transformers.integrations import integration_utils
for _ in range(3):
    assert integration_utils.is_wandb_available() is False
with zoo_hooks.disabled({PATCH!r}):
    try:
        integration_utils.is_wandb_available()
    except AttributeError as error:
        print(error)
assert integration_utils.is_wandb_available() is False
"""  # fmt: skip
    run = child(code, PYTHONPATH=wandb(tmp_path, "print('imported')\n" + BROKEN))
    undone = "" if EARLY else "imported\nnp.float_ was removed\n"
    assert run.stdout == "imported\n" * 3 + undone + "imported\n"
    told = "zoo-hooks: wandb is installed but cannot be imported (AttributeError: np.float_ was removed)"
    assert run.stderr.count(told) == run.stderr.count("zoo-hooks") == 1


@pytest.mark.parametrize("hooks", ["0", "1"])
def test_another_tool_that_does_the_same_is_not_fought(tmp_path, hooks):
    """Before us (hooks off until then) or after us, its answer stays."""
    code = BEGIN + """
import os
from transformers.integrations import integration_utils
def theirs():
    return False
integration_utils.is_wandb_available = theirs
os.environ["ZOO_HOOKS"] = "1"
zoo_hooks.activate()
assert integration_utils.is_wandb_available is theirs
""" + STATUS  # fmt: skip
    expected = {"0": "NOT_NEEDED\n", "1": "APPLIED\n"}[hooks]
    assert python(code, PYTHONPATH=wandb(tmp_path, BROKEN), ZOO_HOOKS=hooks) == expected


GUARDED = """
import importlib.util
def is_wandb_available():
    try:
        import wandb
    except Exception:
        return False
    return hasattr(wandb, "run")
"""


def test_a_callback_of_the_users_own_gets_the_same(tmp_path):
    """A subclass that is made, or named to a Trainer, raises wandb's own error; one that works makes it."""
    code = BEGIN + """
from transformers.integrations import WandbCallback
class Mine(WandbCallback):
    def __init__(self, more):
        super().__init__()
        self.more = more
try:
    print(Mine(3).more)
except AttributeError as error:
    print(error)
"""  # fmt: skip
    assert python(code, PYTHONPATH=wandb(tmp_path, BROKEN)) == "np.float_ was removed\n"
    (tmp_path / "wandb" / "__init__.py").write_text(WORKS)
    assert python(code, PYTHONPATH=str(tmp_path)) == "imported\n3\n"


EARLY_FORM = """
import importlib.util
def is_wandb_available():
    return importlib.util.find_spec("wandb") is not None
"""


@pytest.mark.parametrize(
    ("source", "verdict"),
    [
        (GUARDED, "FIXED"),
        (GUARDED.replace("except Exception", "except ImportError"), "AFFECTED"),
        (EARLY_FORM, "AFFECTED"),
        (EARLY_FORM.replace("is not None", "is None"), "FIXED"),
        ("import functools\n" + GUARDED.replace("def", "@functools.cache\ndef"), "UNKNOWN"),
        ("", "UNKNOWN"),
    ],
)
def test_the_probe_hands_off_what_it_was_not_written_for(source, verdict):
    """A later repair that guards the import is FIXED; one that guards it in part is not."""
    module = ModuleType("fake")
    exec(source, vars(module))
    assert wandb_broken.probe(module).name == verdict


def test_an_error_of_the_function_itself_is_not_the_symptom():
    """It leaves the probe, which the engine takes for UNKNOWN."""
    module = ModuleType("fake")
    exec(GUARDED.replace("try:", "unheard_of()\n    try:"), vars(module))
    with pytest.raises(NameError):
        wandb_broken.probe(module)
