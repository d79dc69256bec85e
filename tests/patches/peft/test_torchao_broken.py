"""peft with a torchao that it finds too old, or whose import fails; the rest is as released."""

from __future__ import annotations

import pytest
from conftest import python
from optional_packages import BEGIN, BROKEN, SYMBOL, package, status

PATCH = "peft/torchao-broken"
TRY = """
import peft, torch
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
model = peft.get_peft_model(model, peft.LoraConfig(target_modules=["0"]))
print(model(torch.ones(2)).tolist(), type(model.base_model.model[0]).__name__)
model = peft.get_peft_model(model.unload(), peft.IA3Config(target_modules=["0"], feedforward_modules=[]))
print(model(torch.ones(2)).tolist(), "torchao" in sys.modules)
"""
QUANTIZED = """
class Tensor(torch.Tensor):
    pass
Tensor.__module__ = "torchao.dtypes"
layer = torch.nn.Linear(2, 2)
layer.weight = torch.nn.Parameter(layer.weight.detach().as_subclass(Tensor), requires_grad=False)
try:
    peft.get_peft_model(torch.nn.Sequential(layer), peft.LoraConfig(target_modules=["0"]))
except Exception as error:
    print(type(error).__name__, error)
"""


def test_without_the_repair_no_lora_can_be_made(measured):
    """Too old for newer releases of peft, and its own error for the others."""
    row = measured(PATCH)
    assert SYMBOL in row["without"] or "incompatible version of torchao" in row["without"]
    assert row["with"] == "imported"


@pytest.mark.parametrize("version", ["0.1.0", "9.0.0"])
def test_layers_get_their_adapters_and_a_weight_of_its_own_has_the_error(tmp_path, version):
    """As if it were absent, and nothing of it is imported; its own weights end in the error."""
    path = package(tmp_path, "torchao", BROKEN, version=version)
    expected, error = python(BEGIN + TRY + status(PATCH) + QUANTIZED, PYTHONPATH=path).split("APPLIED\n")
    assert expected == python("import sys\n" + TRY, ZOO_HOOKS="0")
    assert "\n" in expected.strip()
    assert SYMBOL in error if version == "9.0.0" else error.startswith("ImportError Found an incompatible")


@pytest.mark.parametrize("hooks", ["transformers", "1"])
def test_another_tool_that_does_the_same_is_not_fought(tmp_path, hooks):
    """Before us (only transformers is repaired until then) or after us, its answer stays."""
    code = BEGIN + """
import os, peft.import_utils
def theirs():
    return False
peft.import_utils.is_torchao_available = theirs
os.environ["ZOO_HOOKS"] = "1"
zoo_hooks.activate()
assert peft.import_utils.is_torchao_available is theirs
""" + status(PATCH)  # fmt: skip
    expected = {"transformers": "UNKNOWN\n", "1": "APPLIED\n"}[hooks]
    assert python(code, PYTHONPATH=package(tmp_path, "torchao"), ZOO_HOOKS=hooks) == expected
