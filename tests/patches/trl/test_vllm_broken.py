"""trl with a vLLM that cannot be loaded; the rest is as released."""

from __future__ import annotations

from conftest import python
from optional_packages import BEGIN, SYMBOL, as_if_absent, package

PATCH = "trl/vllm-broken"
NAME = "vllm"
TRY = """
import warnings
warnings.simplefilter("ignore")
from trl import GRPOTrainer, RLOOTrainer, import_utils
print(GRPOTrainer.__name__, RLOOTrainer.__name__, import_utils.is_vllm_available())
"""
NAMED = """
from importlib import import_module
here = [name for name in ("trl.generation.vllm_client", "trl.extras.vllm_client") if name in sys.modules]
generation = import_module(here[0])
try:
    generation.VLLMClient()
except Exception as error:
    print("client", type(error).__name__, error)
"""


def test_without_the_repair_a_trainer_cannot_be_imported(measured):
    """The error of its own body."""
    row = measured(PATCH)
    assert row["without"].endswith(f"{NAME}: {SYMBOL}")
    assert row["with"] == "imported"


def test_trainers_are_imported_and_who_names_it_gets_its_error(tmp_path):
    """As if it were absent; a client for its server has the error."""
    as_if_absent(tmp_path, NAME, PATCH, TRY, NAMED)


def test_nothing_of_it_is_run_before_it_is_used(tmp_path):
    """One that ends the process does so only where trl would import it."""
    code = (
        BEGIN + "import warnings\nwarnings.simplefilter('ignore')\nimport trl\nfrom trl import import_utils\n"
    )
    code += "print(import_utils.is_vllm_available(), 'vllm' in sys.modules)"
    assert python(code, PYTHONPATH=package(tmp_path, NAME, "import os; os.abort()")) == "True False\n"
