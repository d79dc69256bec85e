"""transformers with reporters whose import fails; the rest is as released."""

from __future__ import annotations

import pytest
from conftest import python
from optional_packages import BEGIN, SYMBOL, as_if_absent, package, status, tries

PATCH = "transformers/reporters-broken"
CALLBACKS = {
    "clearml": "ClearMLCallback",
    "codecarbon": "CodeCarbonCallback",
    "dvclive": "DVCLiveCallback",
    "swanlab": "SwanLabCallback",
    "tensorboard": "TensorBoardCallback",
}
TRY = """
import accelerate, tempfile, torch
from transformers import Trainer, TrainingArguments
from transformers.integrations import integration_utils
arguments = TrainingArguments(tempfile.mkdtemp(), use_cpu=True, report_to="all")
trainer = Trainer(model=torch.nn.Linear(2, 2), args=arguments)
print(arguments.report_to, [type(one).__name__ for one in trainer.callback_handler.callbacks])
print(integration_utils.is_NAME_available())
"""
WORKS = """
from transformers.integrations import integration_utils
print(integration_utils.is_swanlab_available(), "swanlab" in sys.modules)
print("swanlab" in integration_utils.get_available_reporting_integrations())
"""


def test_without_the_repair_the_callbacks_of_all_cannot_be_made(measured):
    """The error of a package's own body."""
    row = measured(PATCH)
    assert row["without"].endswith(SYMBOL)
    assert row["with"] == "imported"


@pytest.mark.parametrize("name", CALLBACKS)
def test_all_leaves_it_out_and_who_names_it_gets_its_error(tmp_path, name):
    """A Trainer is made; the reporter's callback has the error."""
    named = "sys.unraisablehook = lambda _: None\n" + tries(callback=f"integration_utils.{CALLBACKS[name]}()")
    as_if_absent(tmp_path, name, PATCH, TRY.replace("NAME", name), named)


def test_one_that_works_is_used_as_without_us(tmp_path):
    """Said to be there without being loaded, and reported to by "all"."""
    path = package(tmp_path, "swanlab", "")
    assert python(BEGIN + WORKS + status(PATCH), PYTHONPATH=path) == "True False\nTrue\nAPPLIED\n"
    assert python(BEGIN + WORKS, PYTHONPATH=path, ZOO_HOOKS="0") == "True False\nTrue\n"


def test_tensorboard_x_takes_the_place_of_a_broken_tensorboard(tmp_path):
    """As without the hooks, which change nothing then."""
    package(tmp_path, "tensorboard")
    path = package(tmp_path, "tensorboardX", "class SummaryWriter: pass\n")
    code = BEGIN + TRY.replace("NAME", "tensorboard")
    seen = python(code, PYTHONPATH=path)
    assert seen == python(code, PYTHONPATH=path, ZOO_HOOKS="0")
    assert "TensorBoardCallback" in seen
