"""Adapters of Mixtral's experts with peft 0.19.0, whose layers have their two sides the other way round."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import child, python, recorded

PATCH = "peft/expert-adapter-sides"
OTHER = "peft/weight-conversion-scope"
READ = f"""
import pathlib, sys, tempfile
sys.path.insert(0, {str(Path(__file__).parent)!r})
import round_trips, zoo_hooks, peft, torch
folder = pathlib.Path(tempfile.mkdtemp())
def gap():
    round_trips.write_experts(folder)
    return round_trips.read("mixtral", folder)
"""
STATUS = f"zoo_hooks.report()[{PATCH!r}].status.name"
SQUARE = """
round_trips.SIZES["intermediate_size"] = 16
round_trips.SHAPES = {"w2": (16, 16)}
"""
pytestmark = pytest.mark.skipif(recorded(PATCH) != "AFFECTED", reason="only with peft 0.19.0 and 5.x")


def test_without_the_repair_loading_raises():
    """The symptom, in upstream's words, where the bugs that hide it are repaired."""
    told = child(f"{READ}\ngap()", check=False, ZOO_HOOKS=f"-{PATCH}").stderr
    assert "RuntimeError: Error(s) in loading state_dict" in told
    assert "size mismatch for base_model.model.model.layers.0.mlp.experts.lora_A.default.weight" in told


@pytest.mark.parametrize(("chosen", "status"), [(f"-{PATCH}", "SKIPPED"), ("1", "APPLIED")])
def test_where_the_fused_weight_is_square_only_the_logits_tell(chosen, status):
    """Without the repair nothing is raised, and they are off."""
    gap, told = python(f"{READ}\n{SQUARE}\nprint(gap(), {STATUS})", ZOO_HOOKS=chosen).split()
    assert told == status
    assert (float(gap) < 1e-5) == (status == "APPLIED")


@pytest.mark.parametrize("model_type", ["mixtral", "qwen2_moe"])
def test_an_adapter_of_fused_experts_that_peft_has_saved_is_loaded_as_before(model_type, tmp_path):
    """One that was saved without hooks, and what is saved after an adapter has been converted."""
    save = f"""
{READ}
torch.manual_seed(1)
config = peft.LoraConfig(
    r=2, target_modules=["q_proj"], target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
    init_lora_weights=False,
)
model = peft.get_peft_model(round_trips.base({model_type!r}), config).eval()
model.save_pretrained({str(tmp_path)!r})
round_trips.save_file({{"logits": round_trips.logits(model)}}, {str(tmp_path / "logits")!r})
"""
    python(save, ZOO_HOOKS="0")
    python(f"""
{READ}
assert round_trips.read({model_type!r}, pathlib.Path({str(tmp_path)!r})) < 1e-5
assert gap() < 1e-5 and {STATUS} == "APPLIED"
model = peft.PeftModel.from_pretrained(round_trips.base("mixtral"), folder)
again = pathlib.Path(tempfile.mkdtemp())
model.save_pretrained(again)
round_trips.save_file({{"logits": round_trips.logits(model)}}, again / "logits")
assert round_trips.read("mixtral", again) == 0
""")


TOOL = """
from peft.tuners.lora.layer import ParamWrapper
def mend():
    original = ParamWrapper.update_layer
    def update_layer(layer, *args, **kwargs):
        if not layer._did_swap_in_out_features and layer.get_param().ndim == 3:
            layer.in_features, layer.out_features = layer.out_features, layer.in_features
            layer._did_swap_in_out_features = True
        return original(layer, *args, **kwargs)
    ParamWrapper.update_layer = update_layer
"""


@pytest.mark.parametrize(
    ("order", "status"),
    [("mend()", "NOT_NEEDED"), ("import peft.utils.transformers_weight_conversion; mend()", "APPLIED")],
)
def test_a_repair_of_the_layers_is_left_alone(order, status):
    """As transformers up to 5.10 makes it when a model of experts gets an adapter; first, or second."""
    gap, told = python(f"{READ}\n{TOOL}\n{order}\nprint(gap(), {STATUS})").split()
    assert told == status
    assert float(gap) < 1e-5


@pytest.mark.skipif(recorded("peft/weight-conversion-scope") != "AFFECTED", reason="only from 5.9 on")
@pytest.mark.parametrize("order", [(PATCH, OTHER), (OTHER, PATCH)])
def test_it_and_the_other_wrapper_of_the_same_function_are_undone_in_any_order(order):
    """Without this one loading raises though the other is in place; afterwards it is right again."""
    python(f"""
{READ}
import peft.utils.transformers_weight_conversion
with zoo_hooks.disabled({PATCH!r}):
    try:
        gap()
    except RuntimeError as error:
        assert "size mismatch" in str(error)
    else:
        raise AssertionError("loaded")
with zoo_hooks.disabled({order[0]!r}), zoo_hooks.disabled({order[1]!r}):
    assert gap() > 1e-5  # nothing is loaded
assert gap() < 1e-5
zoo_hooks.revert({order[0]!r})
zoo_hooks.revert({order[1]!r})
assert gap() > 1e-5
zoo_hooks.activate()
assert gap() < 1e-5
""")


def test_the_probe_leaves_the_random_state():
    """It makes a layer without making its weights."""
    python(f"""
{READ}
before = torch.get_rng_state()
import peft.utils.transformers_weight_conversion
assert {STATUS} == "APPLIED" and torch.equal(torch.get_rng_state(), before)
""")
