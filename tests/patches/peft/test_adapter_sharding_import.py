"""Adapters in a process group with peft 0.19, without tensor parallelism and with it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import child, installed, python, recorded
from packaging.version import Version

PATCH = "peft/adapter-sharding-import"
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


@pytest.mark.skipif(
    Version(installed("transformers")) >= Version("5.4"), reason="has LoRA in parallel layers"
)
def test_with_tensor_parallelism_peft_itself_names_the_upgrade(tmp_path):
    """Two processes: it is raised when the adapter is made, before anything would be sharded."""
    script = [Path(__file__).with_name("parallel.py"), tmp_path, "llama", "q_proj"]
    subprocess.run([sys.executable, *script], check=True)
    two = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    told = subprocess.run(
        [sys.executable, *two, *script],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert '"rows": 8' in told  # of 16
    assert "RuntimeError" in told
    assert "Please upgrade to transformers >= 5.4.0" in told


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
