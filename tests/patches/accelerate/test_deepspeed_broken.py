"""accelerate, and transformers' Trainer behind it, with a deepspeed whose import fails."""

from __future__ import annotations

from conftest import python
from optional_packages import BEGIN, SYMBOL, as_if_absent, package, tries

PATCH = "accelerate/deepspeed-broken"
NAME = "deepspeed"
TRY = """
import torch
from accelerate import Accelerator
from accelerate.utils import DeepSpeedPlugin, is_deepspeed_available
accelerator = Accelerator(cpu=True)
model = accelerator.prepare(torch.nn.Linear(2, 2))
print(accelerator.unwrap_model(model), sorted(accelerator.get_state_dict(model)))
print(bool(is_deepspeed_available()))
"""
NAMED = tries(plugin="accelerator.__class__(deepspeed_plugin=DeepSpeedPlugin())")
ASK = """
import torch
from accelerate import Accelerator
from accelerate.utils import is_deepspeed_available
print(is_deepspeed_available(), "deepspeed" in sys.modules)
print(Accelerator(cpu=True).unwrap_model(torch.nn.Linear(2, 2)), is_deepspeed_available())
print(sorted(name for name in sys.modules if name.partition(".")[0] == "deepspeed"))
"""


def test_without_the_repair_a_model_cannot_be_unwrapped(measured):
    """The error of its own body."""
    row = measured(PATCH)
    assert row["without"].endswith(f"{NAME}: {SYMBOL}")
    assert row["with"] == "imported"


def test_models_are_unwrapped_and_who_names_it_gets_its_error(tmp_path):
    """As if it were absent; an Accelerator with its plugin has the error."""
    as_if_absent(tmp_path, NAME, PATCH, TRY, NAMED)


def test_one_that_works_is_used_as_without_us(tmp_path):
    """Loaded by what imports it, and not by what asks."""
    path = package(tmp_path, NAME, "class DeepSpeedEngine:\n    pass\n")
    seen = python(BEGIN + ASK, PYTHONPATH=path)
    assert seen == python(BEGIN + ASK, PYTHONPATH=path, ZOO_HOOKS="0")
    assert seen.startswith("True False\n")
    assert seen.endswith("True\n['deepspeed']\n")
