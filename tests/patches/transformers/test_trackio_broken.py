"""transformers with a trackio whose import fails; the rest is as released."""

from __future__ import annotations

from conftest import python
from optional_packages import BEGIN, SYMBOL, as_if_absent, package, tries

PATCH = "transformers/trackio-broken"
NAME = "trackio"
TRY = """
import accelerate, tempfile, torch
from transformers import Trainer, TrainingArguments, integrations
from transformers.integrations import integration_utils
arguments = TrainingArguments(tempfile.mkdtemp(), use_cpu=True, report_to="all")
trainer = Trainer(model=torch.nn.Linear(2, 2), args=arguments)
print(arguments.report_to, [type(one).__name__ for one in trainer.callback_handler.callbacks])
print(integrations.is_trackio_available(), integration_utils.is_trackio_available())
"""
NAMED = (
    """
def trains():
    arguments = TrainingArguments(tempfile.mkdtemp(), use_cpu=True, report_to=NAME)
    Trainer(model=torch.nn.Linear(2, 2), args=arguments)
""".replace("NAME", repr(NAME))
    + tries(callback="integration_utils.TrackioCallback()", trains="trains()")
)
WORKS = """
from transformers import integrations
print(integrations.is_trackio_available(), "trackio" in sys.modules)
from transformers.integrations import integration_utils
print("trackio" in integration_utils.get_available_reporting_integrations())
"""


def test_without_the_repair_the_callbacks_of_all_cannot_be_made(measured):
    """The error of its own body."""
    row = measured(PATCH)
    assert row["without"].endswith(f"{NAME}: {SYMBOL}")
    assert row["with"] == "imported"


def test_all_leaves_it_out_and_who_names_it_gets_its_error(tmp_path):
    """A Trainer is made; its callback, and a Trainer that reports to it, have the error."""
    as_if_absent(tmp_path, NAME, PATCH, TRY, NAMED)


def test_one_that_works_is_used_as_without_us(tmp_path):
    """Said to be there without being loaded, and reported to by "all"."""
    path = package(tmp_path, NAME, "")
    assert python(BEGIN + WORKS, PYTHONPATH=path) == "True False\nTrue\n"
    assert python(BEGIN + WORKS, PYTHONPATH=path, ZOO_HOOKS="0") == "True False\nTrue\n"
