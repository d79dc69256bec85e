"""Adapters of Mixtral's experts with peft 0.19: that they are loaded, and not only without an error."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import python, recorded

PATCH = "weight-conversion-scope"
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


def test_an_adapter_in_a_base_model_is_converted_too():
    """Where there is no PeftModel around, the model that is handed over is the base model."""
    python(f"""
{READ}
import peft
model = peft.inject_adapter_in_model(
    peft.LoraConfig(r=2, lora_alpha=4, target_modules=["w1", "w2", "w3"]), round_trips.base("mixtral")
)
weights = round_trips.load_file(folder / "adapter_model.safetensors")
result = peft.set_peft_model_state_dict(model, weights)
assert not [name for name in result.missing_keys if "lora" in name] and not result.unexpected_keys
expected = round_trips.load_file(folder / "logits")["logits"]
assert (round_trips.logits(model) - expected).abs().max() < 1e-5
""")


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
