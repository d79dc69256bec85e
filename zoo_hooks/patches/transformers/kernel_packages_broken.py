"""Models cannot be imported if a package of kernels is installed but cannot be loaded.

Symptom
-------
On a machine with CUDA, a package of kernels was built for another release of torch. The models that can
use it then cannot be imported: ``ImportError: ... undefined symbol``. These are Mamba, Bamba, Zamba and
Falcon-H1 with mamba_ssm, Qwen3-Next, Qwen3.5 and OLMo hybrid with flash-linear-attention, and ModernBERT
with flash_attn. xLSTM with xlstm, and Mamba with mambapy, also fail without CUDA. All these models have
slower code of their own, which they use if the package is absent.

Cause
-----
Functions such as ``is_mamba_ssm_available`` only check whether there is CUDA and the package is installed.
The modules of the models call them and import the package in the next line. Later releases import all but
xlstm only where a kernel is used.

From 5.1.0 to 5.22.2, ``is_flash_attn_2_available`` imports flash_attn itself if no metadata names the module.
Then no model at all can be imported.

Repair
------
When a module calls such a function and then imports the package, zoo-hooks tries that import during the
call. If the import fails, the answer is False from then on, and a warning with the error is logged once. So
the models use their own code. Code that names the package, such as
``attn_implementation="flash_attention_2"``, raises the package's own import error. Code that only calls
the function triggers no import that it would not trigger without zoo-hooks.
"""

from __future__ import annotations

from types import ModuleType

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches import _broken, _optional

INSTALLED = ("_is_package_available",)
FLASH = _optional.Row(
    "flash_attn",
    ("is_flash_attn_2_available", "is_flash_attn_4_available"),
    INSTALLED,
    home="models/modernbert/modeling_modernbert.py",
    spared=(
        "transformers.modeling_flash_attention_utils",
    ),  # which imports the implementation that was named
    refusing=("_flash_attn_import_error", "_flash_attn_2_can_dispatch"),
)
ROWS = (
    _optional.Row(
        "mamba_ssm",
        ("is_mamba_ssm_available", "is_mamba_2_ssm_available"),
        INSTALLED,
        home="models/zamba2/modeling_zamba2.py",
    ),
    _optional.Row(
        "fla",
        ("is_flash_linear_attention_available",),
        INSTALLED,
        home="models/qwen3_next/modeling_qwen3_next.py",
    ),
    _optional.Row("mambapy", ("is_mambapy_available",), INSTALLED, home="models/mamba/modeling_mamba.py"),
    _optional.Row("xlstm", ("is_xlstm_available",), INSTALLED, home="models/xlstm/configuration_xlstm.py"),
    FLASH,
    FLASH._replace(flags=("PACKAGE_DISTRIBUTION_MAPPING",), home=""),
)
MODELS = """
import torch
from importlib import import_module
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
torch.cuda.is_available, torch.version.cuda = lambda: True, "12.8"
for name in ("zamba2", "mamba", "modernbert", "qwen3_next", "xlstm"):
    if name in CONFIG_MAPPING_NAMES:
        import_module(f"transformers.models.{name}.modeling_{name}")
"""


def probe(module: ModuleType) -> Verdict:
    return _optional.probe(module, *ROWS)


def repair(module: ModuleType, changes: Changes) -> None:
    _optional.repair(module, changes, *ROWS)


def canary() -> Figure:
    beside = _broken.packages("mambapy", "xlstm", "flash_attn")
    beside |= _broken.package("fla", distribution="flash-linear-attention")
    return _broken.with_broken("mamba_ssm", MODELS, beside)


PATCH = Patch(
    module=__name__,
    title="Models cannot be imported if a package of kernels is installed but cannot be loaded",
    severity="crash",
    guard=True,
    symptoms=(
        "undefined symbol @ transformers.models @ mamba_ssm",
        "undefined symbol @ transformers.models @ fla",
        "undefined symbol @ transformers.models @ xlstm",
        "undefined symbol @ transformers.models @ flash_attn",
        "@ is_flash_attn_2_available @ flash_attn.__init__",
        "@ transformers.models @ mambapy.__init__",
    ),
    targets=("transformers.utils.import_utils",),
    affects=("transformers>=4.50.0",),
    links=(
        "https://github.com/huggingface/transformers/blob/v5.24.0/src/transformers/models/xlstm/configuration_xlstm.py#L23",
        "https://github.com/huggingface/transformers/blob/v5.5.0/src/transformers/models/qwen3_next/modeling_qwen3_next.py#L57",
    ),
    measures="result of importing five models beside broken packages of kernels (expected: imported)",
    probe=probe,
    repair=repair,
    canary=canary,
)
