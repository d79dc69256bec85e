"""Adapters in a process group with peft 0.19, without tensor parallelism and with it."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import child, python, recorded

PATCH = "adapter-sharding-import"
READ = f"""
import pathlib, sys, tempfile
sys.path.insert(0, {str(Path(__file__).parent)!r})
import round_trips, zoo_hooks
folder = pathlib.Path(tempfile.mkdtemp())
round_trips.write("llama", folder)
def gap():
    with round_trips.process_group():
        return round_trips.read("llama", folder)
"""
pytestmark = pytest.mark.skipif(
    recorded(PATCH) != "AFFECTED", reason="only with peft 0.19 and some transformers"
)


def test_without_hooks_loading_raises_in_a_process_group():
    """The symptom, in upstream's words."""
    told = child(f"{READ}\ngap()", check=False, ZOO_HOOKS="0").stderr
    assert "ImportError: cannot import name 'EmbeddingParallel'" in told


@pytest.mark.parametrize("order", ["peft, transformers", "transformers, peft"])
def test_either_may_be_imported_first_and_transformers_gets_no_placeholder(order):
    """The classes of tensor parallelism are those that transformers has."""
    python(f"""
import {order}, zoo_hooks
assert zoo_hooks.report()[{PATCH!r}].status.name == "APPLIED"
from transformers.integrations import tensor_parallel
assert not hasattr(tensor_parallel, "EmbeddingParallel")
{READ}
assert gap() < 1e-5
""")


def test_a_parallel_layer_goes_the_way_that_it_went():
    """With a plan and a mesh upstream's function runs; with one of them it need not."""
    python("""
        import peft, torch
        from peft.utils import save_and_load
        config = peft.LoraConfig(target_modules=["0"])
        model = peft.get_peft_model(torch.nn.Sequential(torch.nn.Linear(2, 2)), config)
        shard = save_and_load._maybe_shard_state_dict_for_tp
        base = model.base_model.model[0].base_layer
        state = {"any": torch.ones(1)}
        assert shard(model, state, "default") is None
        base._hf_tp_plan = "colwise"
        assert shard(model=model, state_dict=state, adapter_name="d") is None
        base._hf_device_mesh = object()
        try:
            shard(model, state, "default")
        except ImportError as error:
            assert "EmbeddingParallel" in str(error)
        else:
            raise AssertionError("upstream's function did not run")
        assert state == {"any": torch.ones(1)}
    """)


def test_another_tools_placeholder_is_left_alone():
    """Where the name is in transformers, before or after, nothing of ours is in its way."""
    tool = """
from transformers.integrations import tensor_parallel
def mend(): tensor_parallel.EmbeddingParallel = type("EmbeddingParallel", (), {})
"""
    for order, status in (f"{tool}\nmend()\n{READ}", "NOT_NEEDED"), (f"{READ}\n{tool}\nmend()", "APPLIED"):
        told = python(f"""{order}
print(gap() < 1e-5, zoo_hooks.report()[{PATCH!r}].status.name)
""")
        assert told.split() == ["True", status]
