"""Adapters of MoE models on transformers 5.0, whose convert takes and gives other things."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import child, python, recorded

PATCH = "peft/weight-conversion-loading-info"
MODULE = "peft.utils.transformers_weight_conversion"
HERE = str(Path(__file__).parent)
ROUND_TRIP = f"""
import pathlib, sys, tempfile
sys.path.insert(0, {HERE!r})
import round_trips
folder = pathlib.Path(tempfile.mkdtemp())
round_trips.write_all(folder)
def gap(): return max(round_trips.read("mixtral", folder / name) for name in ("mixtral", "experts"))
"""
pytestmark = pytest.mark.skipif(recorded(PATCH) != "AFFECTED", reason="only with transformers 5.0")


def test_without_hooks_loading_raises():
    """The symptom, in upstream's words."""
    told = child(f"{ROUND_TRIP}\ngap()", check=False, ZOO_HOOKS="0").stderr
    assert "TypeError: WeightRenaming.convert() got an unexpected keyword argument 'loading_info'" in told


def test_who_passes_the_argument_gets_the_tensors_and_others_the_pair():
    """By name or by position; the signature is transformers' own."""
    python(f"""
        import inspect
        import zoo_hooks, {MODULE}
        from transformers.core_model_loading import WeightRenaming
        assert zoo_hooks.report()[{PATCH!r}].status.name == "APPLIED"

        def filled():
            made = WeightRenaming("a", "b")
            made.add_tensor("b", "a", "a", "tensor")
            return made

        tensors, errors = {{"b": ["tensor"]}}, {{}}
        assert filled().convert("b", loading_info=None) == tensors
        assert filled().convert("b", None, None, None, loading_info=None) == tensors
        assert filled().convert(layer_name="b", model=None) == (tensors, None)
        assert filled().convert("b", None, None, None, None, errors)[1] is errors
        assert "loading_info" not in inspect.signature(WeightRenaming.convert).parameters
    """)


def test_an_error_of_a_conversion_reaches_the_user():
    """It is raised as it is, not collected."""
    told = child(f"""
        import torch, {MODULE} as module
        converter = module.WeightConverter(["a", "b"], "c", operations=[module.PeftConcatenate(dim=0)])
        converter.add_tensor("c", "a", "a", torch.zeros(1))
        converter.convert("c", loading_info=None)
    """, check=False).stderr  # fmt: skip
    assert "has no attribute 'dim'" in told


def test_transformers_own_loading_is_unchanged(tmp_path):
    """A Mixtral checkpoint, whose experts are converted, loads the same with the repair in place."""
    python(f"""
        import sys, torch
        sys.path.insert(0, {HERE!r})
        import round_trips, zoo_hooks, {MODULE}
        model = round_trips.base("mixtral")
        model.save_pretrained({str(tmp_path)!r})
        again = type(model).from_pretrained({str(tmp_path)!r})
        assert torch.equal(round_trips.logits(model), round_trips.logits(again))
        assert zoo_hooks.report()[{PATCH!r}].status.name == "APPLIED"
    """)


CLASSES = """
from transformers.core_model_loading import WeightConverter, WeightRenaming
def mend():
    for kind in (WeightConverter, WeightRenaming):
        def convert(self, *args, loading_info=0, original=kind.convert, **kwargs):
            pair = original(self, *args, **kwargs)
            return pair[0] if loading_info is None and isinstance(pair, tuple) else pair
        kind.convert = convert
"""
FUNCTION = f"""
import inspect, {MODULE} as module
def mend():
    source = inspect.getsource(module.convert_peft_adapter_state_dict_for_transformers)
    source = source.replace("loading_info=None,", "").replace("realized_values = ", "realized_values, _ = ")
    exec(source, vars(module))
"""


def test_another_tools_repair_is_left_alone():
    """Of the classes, before peft's module is loaded; the patch stands back, and adapters load."""
    told = python(f"""{CLASSES}
mend()
import zoo_hooks
{ROUND_TRIP}
print(gap() < 1e-5, zoo_hooks.report()[{PATCH!r}].status.name)
""")
    assert told.split() == ["True", "NOT_NEEDED"]


@pytest.mark.parametrize("tool", [CLASSES, FUNCTION], ids=["classes", "function"])
def test_another_tools_repair_that_comes_second_does_no_harm(tool):
    """Theirs goes around ours, or beside it where it calls without the argument."""
    told = python(f"""
import zoo_hooks, {MODULE}
{tool}
mend()
{ROUND_TRIP}
print(gap() < 1e-5, zoo_hooks.report()[{PATCH!r}].status.name)
""")
    assert told.split() == ["True", "APPLIED"]


def test_a_repair_of_pefts_function_is_seen():
    """The probe runs it where the classes are as they were."""
    told = python(f"""
{FUNCTION}
mend()
from zoo_hooks.patches.peft.weight_conversion_loading_info import probe
print(probe(module).name)
""", ZOO_HOOKS="0")  # fmt: skip
    assert told.split() == ["FIXED"]
