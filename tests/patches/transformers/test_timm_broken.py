"""transformers with a timm that cannot be loaded; Pillow and torchvision stand in where there are none."""

from __future__ import annotations

import pytest
from conftest import child
from optional_packages import BEGIN, SYMBOL, as_if_absent, as_without_us, package, status, tries
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from zoo_hooks.patches.transformers import timm_broken

PATCH = "transformers/timm-broken"
NAME = "timm"
LABELS = {"timm/data.py": "ImageNetInfo = infer_imagenet_subset = None\n"}
TEXT = """
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import import_utils
model = AutoModelForCausalLM.from_config(AutoConfig.for_model(
    "gemma3n_text", vocab_size=32, vocab_size_per_layer_input=32, hidden_size=16, intermediate_size=16,
    hidden_size_per_layer_input=8, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
    head_dim=8, num_kv_shared_layers=0, laurel_rank=4, altup_num_inputs=2, pad_token_id=0,
    layer_types=["sliding_attention", "full_attention"], activation_sparsity_pattern=None,
))
print(model(torch.arange(1, 5)[None]).logits.shape)
print(import_utils.is_timm_available())
"""
DETR = """
from transformers.utils import import_utils
from transformers.models.detr import modeling_detr
print(import_utils.is_timm_available())
"""
NAMED = """
from transformers import TimmWrapperConfig, TimmWrapperModel
def gate():
    if not import_utils.is_timm_available():
        raise ValueError("pip install timm")
""" + tries(
    gate="gate()",
    table="import_utils.requires_backends(print, ['timm'])",
    model="TimmWrapperModel(TimmWrapperConfig())",
)  # fmt: skip

gemma3n = pytest.mark.skipif("gemma3n" not in CONFIG_MAPPING_NAMES, reason="this release has no Gemma-3n")


@pytest.fixture
def site(tmp_path):
    """A folder for timm, with Pillow and torchvision where there are none."""
    for file, text in timm_broken.images().items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text)
    return tmp_path


def test_without_the_repair_it_cannot_be_imported(measured):
    """The error of its own body."""
    row = measured(PATCH)
    assert row["without"].endswith(f"{NAME}: {SYMBOL}")
    assert row["with"] == "imported"


@gemma3n
def test_the_text_model_of_gemma3n_runs_and_who_names_timm_gets_its_error(site):
    """One warning; a model of timm, and what refuses with words of how to install it, has the error."""
    as_if_absent(site, NAME, PATCH, TEXT, NAMED)


@pytest.mark.skipif("gemma3n" in CONFIG_MAPPING_NAMES, reason="that of Gemma-3n asks the same")
def test_detr_is_as_if_it_were_absent_and_who_names_timm_gets_its_error(site):
    """Releases before Gemma-3n import it in the models of DETR."""
    as_if_absent(site, NAME, PATCH, DETR, NAMED)


@gemma3n
@pytest.mark.parametrize("error", ["OSError", "RuntimeError", "AttributeError"])
def test_any_error_of_its_import_counts(site, error):
    """As of a library that lacks a symbol, or an operator that torch does not know."""
    code = BEGIN + "import transformers.models.gemma3n.configuration_gemma3n" + status(PATCH)
    seen = child(code, PYTHONPATH=package(site, NAME, f"raise {error}('no nms')"))
    assert seen.stdout == "APPLIED\n"
    assert seen.stderr.count(f"timm is installed but cannot be imported ({error}: no nms)") == 1


@gemma3n
def test_one_that_works_is_used_as_without_us(site):
    """Loaded by what imports it, and not by what asks."""
    path = package(site, NAME, "", LABELS)
    use = "import transformers.models.gemma3n.configuration_gemma3n"
    as_without_us(path, NAME, "import_utils.is_timm_available()", use, PATCH)
