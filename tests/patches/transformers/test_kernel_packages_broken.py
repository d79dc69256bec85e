"""transformers with packages of kernels that cannot be loaded, where torch says that there is CUDA.

What is not as released is that answer, and the packages.
"""

from __future__ import annotations

import inspect

import pytest
from conftest import child, recorded
from optional_packages import BEGIN, SYMBOL, as_if_absent, as_without_us, package, status, tries
from transformers.utils import import_utils

from zoo_hooks.patches import _optional
from zoo_hooks.patches.transformers.kernel_packages_broken import FLASH, ROWS

PATCH = "transformers/kernel-packages-broken"
CUDA = 'import torch\ntorch.cuda.is_available, torch.version.cuda = lambda: True, "12.8"\n'
TRY = """
import transformers.modeling_utils
from importlib import import_module
from transformers.utils import import_utils
module = import_module("transformers.models.MODEL.modeling_MODEL")
print(sorted(name for name, value in vars(module).items() if value is None))
print(getattr(module, "is_fast_path_available", None), import_utils.QUESTION())
"""
NAMED = """
from transformers import LlamaConfig, LlamaForCausalLM
shape = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
config = LlamaConfig(num_hidden_layers=1, **shape)
""" + tries(flash="LlamaForCausalLM._from_config(config, attn_implementation='flash_attention_2')")
GATE = """
def gate():
    if not import_utils.QUESTION():
        raise ValueError("pip install NAME")
""" + tries(gate="gate()")
TYPES = ("BackendModeType", "ChunkwiseKernelType", "DtypeType", "SequenceKernelType", "StepKernelType",
         "WeightModeType", "round_up_to_next_multiple_of", "xLSTMLargeConfig")  # fmt: skip
XLSTM = {"xlstm/xlstm_large/__init__.py": "", "xlstm/xlstm_large/model.py": " = ".join((*TYPES, "str"))}


def affected(row):
    """Tell whether a model of this release imports the package of a row at once."""
    asks = getattr(import_utils, row.questions[0], None)
    names = inspect.unwrap(asks).__code__.co_names if asks else ()
    return not set(row.flags).isdisjoint(names) and _optional.imports_at_once(import_utils, row)


def test_without_the_repair_no_such_model_can_be_imported(measured):
    """The error of a package's own body."""
    row = measured(PATCH)
    assert row["without"].endswith(SYMBOL)
    assert row["with"] == "imported"


@pytest.mark.parametrize("row", ROWS[:-1], ids=lambda row: row.name)
def test_models_are_as_if_it_were_absent_and_who_names_it_gets_its_error(row, tmp_path):
    """Each package alone; the model has its own code."""
    if not affected(row):
        pytest.skip("no model of this release imports it at once")
    model, question = row.home.split("/")[1], row.questions[0]
    code = TRY.replace("MODEL", model).replace("QUESTION", question)
    named = NAMED if row is FLASH else GATE.replace("QUESTION", question).replace("NAME", row.name)
    as_if_absent(tmp_path, row.name, PATCH, CUDA + code, named)


def test_a_flash_attn_that_no_metadata_names_takes_no_model_down(tmp_path):
    """Llama is imported; who names flash attention has the package's error."""
    if not affected(ROWS[-1]):
        pytest.skip("this release does not import it to learn its version")
    path = package(tmp_path, "flash_attn", files={"flash_attn-9.0.0.dist-info/top_level.txt": ""})
    seen = child(
        BEGIN + CUDA + "from transformers import LlamaModel\n" + NAMED + status(PATCH), PYTHONPATH=path
    )
    assert seen.stdout == f"flash ImportError flash_attn: {SYMBOL}\nAPPLIED\n"
    assert seen.stderr.count("zoo-hooks: flash_attn is installed but cannot be imported") == 1


def test_one_that_works_is_used_as_without_us(tmp_path):
    """Loaded by what imports it, and not by what asks."""
    if recorded(PATCH) != "AFFECTED" or not affected(ROWS[3]):
        pytest.skip("this release has no xLSTM")
    path = package(tmp_path, "xlstm", "", XLSTM)
    asked = "import_utils.is_xlstm_available()"
    as_without_us(path, "xlstm", asked, "import transformers.models.xlstm.configuration_xlstm", PATCH)
