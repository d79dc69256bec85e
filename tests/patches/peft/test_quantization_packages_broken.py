"""peft with packages for quantized layers whose import fails; the rest is as released."""

from __future__ import annotations

import pytest
from conftest import python
from optional_packages import BEGIN, SYMBOL, as_if_absent, package, status

from zoo_hooks.patches.peft.quantization_packages_broken import ROWS

PATCH = "peft/quantization-packages-broken"
TRY = """
import peft, torch
torch.manual_seed(0)
model = peft.get_peft_model(
    torch.nn.Sequential(torch.nn.Linear(2, 2)), peft.LoraConfig(target_modules=["0"], r=1)
)
print(sorted(name for name, _ in model.named_parameters()), model(torch.ones(2)).tolist())
"""
ASK = """
import peft.import_utils
print(peft.import_utils.is_eetq_available(), "eetq" in sys.modules)
import peft.tuners.lora.eetq
print("eetq" in sys.modules, hasattr(peft.tuners.lora.eetq, "EetqLoraLinear"))
"""


def test_without_the_repair_no_lora_can_be_made(measured):
    """The error of a package's own body."""
    row = measured(PATCH)
    assert row["without"].endswith(SYMBOL)
    assert row["with"] == "imported"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_layers_get_their_adapters_as_if_it_were_absent(row, tmp_path):
    """One warning; who imports the package has its error."""
    from peft import import_utils

    if not hasattr(import_utils, row.questions[0]):
        pytest.skip("this release knows no such package")
    named = (
        f"try:\n    import {row.name}\nexcept ImportError as error:\n    print('itself ImportError', error)\n"
    )
    as_if_absent(
        tmp_path, row.name, PATCH, TRY, named.replace("'itself ImportError'", "'itself', 'ImportError'")
    )


def test_one_that_works_is_used_as_without_us(tmp_path):
    """Loaded by what imports it, and not by what asks."""
    path = package(tmp_path, "eetq", "class EetqLinear: pass\n")
    seen = python(BEGIN + ASK, PYTHONPATH=path, ZOO_HOOKS="0")
    assert python(BEGIN + ASK + status(PATCH), PYTHONPATH=path) == seen + "APPLIED\n"
    assert seen.endswith("True True\n")
