"""trl with a triton that cannot be loaded, and with one that can; the rest is as released."""

from __future__ import annotations

import pytest
from conftest import python, recorded
from optional_packages import BEGIN, SYMBOL, as_if_absent, as_without_us, package, tries

PATCH = "trl/triton-broken"
NAME = "triton"
TRAINERS = "SFTTrainer, DPOTrainer, GRPOTrainer, KTOTrainer, RLOOTrainer, RewardTrainer"
TRY = f"""
import torch, warnings
warnings.simplefilter("ignore")
from trl import {TRAINERS}
from trl.experimental import gkd
from trl.trainer import utils
print([one.__name__ for one in ({TRAINERS})], utils.is_triton_available())
torch.manual_seed(0)
logits, index = torch.randn(2, 3, 8), torch.randint(8, (2, 3))
print(utils.selective_log_softmax(logits, index).tolist(), utils.entropy_from_logits(logits).tolist())
compiled = torch.compile(utils.selective_log_softmax, fullgraph=True, backend="eager")
print(compiled(logits, index=index).tolist())
"""
NAMED = "from importlib import import_module\n" + tries(
    kernel="import_module('trl.kernels.logprob_entropy')", itself="import_module('triton')"
)
MXFP4 = """
import warnings
warnings.simplefilter("ignore")
from transformers import Mxfp4Config
from transformers.quantizers.quantizer_mxfp4 import Mxfp4HfQuantizer
def validated(**loaded):
    quantizer = Mxfp4HfQuantizer(Mxfp4Config(), **loaded)
    quantizer.validate_environment()
    return quantizer.quantization_config.dequantize
""" + tries(loaded="validated(pre_quantized=True)", made="validated(pre_quantized=False)")
pytestmark = pytest.mark.skipif(recorded(PATCH) != "AFFECTED", reason="this release does not have the bug")


def test_without_the_repair_a_trainer_cannot_be_imported(measured):
    """The error of its own body."""
    row = measured(PATCH)
    assert row["without"].endswith(f"{NAME}: {SYMBOL}")
    assert row["with"] == "imported"


def test_trainers_compute_with_torch_and_who_names_it_gets_its_error(tmp_path):
    """As if it were absent, compiled too; trl's kernels of triton have the error."""
    as_if_absent(tmp_path, NAME, PATCH, TRY, NAMED)


def test_transformers_is_told_what_it_was(tmp_path):
    """An MXFP4 model that can be dequantized still is, before trl is imported and after."""
    path = package(tmp_path, NAME)
    before = python(MXFP4, PYTHONPATH=path, ZOO_HOOKS="0")
    for first in ("import trl", "from trl import SFTTrainer"):
        assert python(f"{BEGIN}{first}\n{MXFP4}", PYTHONPATH=path) == before


def test_one_that_works_is_used_as_without_us(tmp_path):
    """Loaded by what imports it, and not by what asks."""
    path = package(
        tmp_path,
        NAME,
        "def jit(function): return function",
        {"triton/language.py": "class constexpr: pass"},
    )
    as_without_us(
        path, NAME, "import_utils.is_triton_available()", "import trl.kernels.logprob_entropy", PATCH
    )
