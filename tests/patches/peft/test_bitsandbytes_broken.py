"""peft with a bitsandbytes whose import fails; the rest is as released."""

from __future__ import annotations

from conftest import python
from optional_packages import BEGIN, SYMBOL, as_if_absent, package, tries

PATCH = "peft/bitsandbytes-broken"
NAME = "bitsandbytes"
TRY = """
import peft, torch
from peft import import_utils
def adapted(config):
    torch.manual_seed(0)
    model = peft.get_peft_model(torch.nn.Sequential(torch.nn.Linear(2, 2)), config)
    return sorted(name for name, _ in model.named_parameters()), model(torch.ones(2)).tolist()
print(adapted(peft.LoraConfig(target_modules=["0"], r=1)))
print(adapted(peft.IA3Config(target_modules=["0"], feedforward_modules=[])))
print(import_utils.is_bnb_available(), import_utils.is_bnb_4bit_available())
"""
NAMED = tries(eight="peft.tuners.lora.Linear8bitLt")
WORKS = {"bitsandbytes/nn.py": "Linear4bit = Linear8bitLt = object\nInt8Params = Params4bit = None\n"}
ASK = """
import peft, torch
from peft import import_utils
print(import_utils.is_bnb_available(), "bitsandbytes" in sys.modules)
peft.get_peft_model(torch.nn.Sequential(torch.nn.Linear(2, 2)), peft.LoraConfig(target_modules=["0"]))
print(import_utils.is_bnb_available(), import_utils.is_bnb_4bit_available())
print(sorted(name for name in sys.modules if name.partition(".")[0] == "bitsandbytes"))
"""


def test_without_the_repair_no_lora_can_be_made(measured):
    """The error of its own body."""
    row = measured(PATCH)
    assert row["without"].endswith(f"{NAME}: {SYMBOL}")
    assert row["with"] == "imported"


def test_layers_get_their_adapters_and_who_names_it_gets_its_error(tmp_path):
    """LoRA and IA3 as if it were absent; peft's own class for it has the error."""
    as_if_absent(tmp_path, NAME, PATCH, TRY, NAMED)


def test_one_that_works_is_used_as_without_us(tmp_path):
    """Loaded by what imports it; that is ``import peft`` itself in newer releases."""
    path = package(tmp_path, NAME, "from . import nn\n", WORKS)
    seen = python(BEGIN + ASK, PYTHONPATH=path)
    assert seen == python(BEGIN + ASK, PYTHONPATH=path, ZOO_HOOKS="0")
    assert seen.endswith("\nTrue True\n['bitsandbytes', 'bitsandbytes.nn']\n")
