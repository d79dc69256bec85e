"""Adapters of Mixtral's experts with peft 0.19: that they are loaded, and not only without an error."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import python, recorded

PATCH = "peft/weight-conversion-scope"
MODULE = "peft.utils.transformers_weight_conversion"
READ = f"""
import pathlib, sys, tempfile
sys.path.insert(0, {str(Path(__file__).parent)!r})
import round_trips, zoo_hooks
import {MODULE} as module
folder = pathlib.Path(tempfile.mkdtemp())
round_trips.write_experts(folder)
"""
GAP = f'print(round_trips.read("mixtral", folder), zoo_hooks.report()[{PATCH!r}].status.name)'
pytestmark = pytest.mark.skipif(recorded(PATCH) != "AFFECTED", reason="only with peft 0.19 and later 5.x")


@pytest.mark.parametrize(("chosen", "status"), [(f"-{PATCH}", "SKIPPED"), ("1", "APPLIED")])
def test_only_with_the_repair_does_the_adapter_act(chosen, status):
    """Without it, loading raises nothing and the logits are off."""
    gap, told = python(READ + GAP, ZOO_HOOKS=chosen).split()
    assert told == status
    assert (float(gap) < 1e-5) == (status == "APPLIED")


def test_a_base_model_that_is_handed_over_is_itself():
    """The conversion is the same for it and for the PeftModel around it."""
    python(f"""
{READ}
import peft
base = round_trips.base("mixtral")
config = peft.LoraConfig(r=2, target_modules=["w1", "w2", "w3"])
weights = round_trips.load_file(folder / "adapter_model.safetensors")
around = peft.get_peft_model(round_trips.base("mixtral"), config)
one, other = (
    module.convert_peft_adapter_state_dict_for_transformers(model, config, dict(weights))
    for model in (base, around)
)
assert sorted(one) == sorted(other)
assert len(one) == 8 and not any("block_sparse_moe" in name for name in one)
assert all(bool((one[name] == other[name]).all()) for name in one)
""", ZOO_HOOKS="-expert-adapter-sides")  # fmt: skip


TOOL = """
def mend():
    original = module.convert_peft_adapter_state_dict_for_transformers
    def convert(model, *args, **kwargs):
        base = model.get_base_model() if isinstance(model, peft.PeftModel) else model
        return original(base, *args, **kwargs)
    import peft
    module.convert_peft_adapter_state_dict_for_transformers = convert
"""


def test_another_tools_repair_is_seen():
    """The probe finds nothing to repair."""
    told = python(f"""
import {MODULE} as module
{TOOL}
mend()
from zoo_hooks.patches.peft.weight_conversion_scope import probe
print(probe(module).name)
""", ZOO_HOOKS="0")  # fmt: skip
    assert told.split() == ["FIXED"]


def test_another_tools_repair_that_comes_second_does_no_harm():
    """The base model of a base model is itself."""
    gap, told = python(f"{READ}\n{TOOL}\nmend()\n{GAP}").split()
    assert float(gap) < 1e-5
    assert told == "APPLIED"
