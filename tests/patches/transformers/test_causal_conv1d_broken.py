"""transformers with a package causal_conv1d that fails to load, where torch says that there is CUDA.

What is not as released is that answer, and the package. All in children, for transformers remembers both.
"""

from __future__ import annotations

from types import ModuleType

import pytest
import transformers
from conftest import child, python, recorded

from zoo_hooks.patches.transformers import causal_conv1d_broken

PATCH = "transformers/causal-conv1d-broken"
BEGIN = """
import sys, torch, zoo_hooks
zoo_hooks.init()
has_cuda, torch.cuda.is_available = torch.cuda.is_available, lambda: True
"""
STATUS = f"print(zoo_hooks.report()[{PATCH!r}].status.name)\n"
BROKEN = "raise ImportError('undefined symbol: _ZN3c10')"
WORKS = "causal_conv1d_fn = causal_conv1d_update = print\n"
NAMES = ("bamba", "falcon_h1", "falcon_mamba", "jamba", "lfm2", "lfm2_moe", "mamba", "mamba2", "qwen3_next",
         "qwen3_5", "zamba2")  # fmt: skip
HERE = [name for name in NAMES if name in transformers.models.auto.configuration_auto.CONFIG_MAPPING_NAMES]
TRY = f"""
from importlib import import_module
from transformers.utils import import_utils
for name in {HERE}:
    module = import_module(f"transformers.models.{{name}}.modeling_{{name}}")
    print(name, getattr(module, "causal_conv1d_fn", None), getattr(module, "is_fast_path_available", None))
print(import_utils.is_causal_conv1d_available(), "causal_conv1d" in sys.modules)
torch.cuda.is_available = has_cuda
"""
RUN = """
from transformers import BambaConfig, BambaForCausalLM
torch.manual_seed(0)
torch.set_num_threads(1)
model = BambaForCausalLM(BambaConfig(
    vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, attn_layer_indices=[1], mamba_n_heads=4, mamba_d_head=16, mamba_d_state=16,
    pad_token_id=0,
)).eval()
with torch.no_grad():
    print(model(torch.arange(8)[None]).logits.double().sum().item())
"""


def package(folder, body):
    """Write a package causal_conv1d as pip leaves one; the result is the PYTHONPATH that has it."""
    (folder / "causal_conv1d").mkdir()
    (folder / "causal_conv1d" / "__init__.py").write_text(body)
    (folder / "causal_conv1d-1.dist-info").mkdir()
    (folder / "causal_conv1d-1.dist-info" / "METADATA").write_text("Name: causal_conv1d\nVersion: 1\n")
    return str(folder)


@pytest.fixture(autouse=True, scope="module")
def _needs_the_bug():
    if recorded(PATCH) != "AFFECTED":
        pytest.skip("in this release the models try the import")


def test_without_the_repair_a_model_cannot_be_imported(measured):
    """The error of the package's own body."""
    row = measured(PATCH)
    assert row["without"] == "ImportError: undefined symbol"
    assert row["with"] == "imported"


def test_models_import_and_compute_as_if_it_were_not_installed(tmp_path):
    """Each of those that ask, without the fast path; Bamba's logits to the last digit."""
    absent = python(BEGIN + TRY + RUN, ZOO_HOOKS="0")
    assert python(BEGIN + TRY + RUN + STATUS, PYTHONPATH=package(tmp_path, BROKEN)) == absent + "APPLIED\n"
    assert "\nFalse False\n" in absent


def test_one_that_works_is_used_as_without_us(tmp_path):
    """Models get its functions, and what asks gets True."""
    path = package(tmp_path, WORKS)
    seen = python(BEGIN + TRY, PYTHONPATH=path)
    assert seen == python(BEGIN + TRY, PYTHONPATH=path, ZOO_HOOKS="0")
    assert "built-in function print" in seen
    assert seen.endswith("True True\n")


def test_without_cuda_it_is_not_imported(tmp_path):
    """As transformers does not ask for it there."""
    code = BEGIN + "torch.cuda.is_available = lambda: False\n" + TRY
    assert python(code, PYTHONPATH=package(tmp_path, BROKEN)).endswith("\nFalse False\n")


def test_it_is_told_once_and_undone(tmp_path):
    """One warning with the error, however often it is asked; undone, it is taken for usable again."""
    code = BEGIN + f"""
import transformers.modeling_utils
from transformers.utils import import_utils
for _ in range(3):
    assert import_utils.is_causal_conv1d_available() is False
with zoo_hooks.disabled({PATCH!r}):
    assert import_utils.is_causal_conv1d_available()
assert import_utils.is_causal_conv1d_available() is False
"""  # fmt: skip
    run = child(code, PYTHONPATH=package(tmp_path, BROKEN))
    told = "zoo-hooks: causal_conv1d is installed but cannot be imported (ImportError: undefined symbol: _ZN3"
    assert run.stderr.count(told) == run.stderr.count("zoo-hooks") == 1


def test_the_controls_of_the_function_are_upstreams():
    """Where it is a cache, its controls are there and act on it; elsewhere there are none."""
    controls = ("cache_clear", "cache_info", "cache_parameters")
    code = BEGIN + f"""
import transformers.modeling_utils
from transformers.utils import import_utils
ask = import_utils.is_causal_conv1d_available
print([hasattr(ask, name) for name in {controls}])
if hasattr(ask, "cache_clear"):
    torch.cuda.is_available = lambda: False
    print(ask(), ask(), ask.cache_info().currsize)
    ask.cache_clear()
    print(ask.cache_info().currsize)
"""  # fmt: skip
    assert python(code) == python(code, ZOO_HOOKS="0")


@pytest.mark.parametrize("hooks", ["0", "1"])
def test_another_tool_that_does_the_same_is_not_fought(tmp_path, hooks):
    """Before us (hooks off until then) or after us, its answer stays."""
    code = BEGIN + """
import os, transformers.modeling_utils
from transformers.utils import import_utils
def theirs():
    return False
import_utils.is_causal_conv1d_available = theirs
os.environ["ZOO_HOOKS"] = "1"
zoo_hooks.activate()
assert import_utils.is_causal_conv1d_available is theirs
""" + STATUS  # fmt: skip
    expected = {"0": "NOT_NEEDED\n", "1": "APPLIED\n"}[hooks]
    assert python(code, PYTHONPATH=package(tmp_path, BROKEN), ZOO_HOOKS=hooks) == expected


def test_the_probe_hands_off_what_it_was_not_written_for(monkeypatch):
    """A module without the function."""
    monkeypatch.setitem(causal_conv1d_broken.sys.modules, causal_conv1d_broken.ASKS, ModuleType("fake"))
    assert causal_conv1d_broken.probe(ModuleType("fake")).name == "UNKNOWN"
