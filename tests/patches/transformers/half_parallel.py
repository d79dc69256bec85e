"""A model whose products overflow, loaded by two processes that are tensor parallel.

Each writes, as JSON in a file named by its rank, the relative errors in float16 of an MLP and of the experts,
with the repairs and without.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import torch
import transformers
from half_mlp import HALF, error, states
from torch import distributed

import zoo_hooks
from zoo_hooks.patches.transformers import _tiny

CHOSEN = torch.arange(16).reshape(8, 2) % 4
WEIGHTS = torch.full((8, 2), 0.5)


def loaded(folder):
    try:
        from transformers.distributed import DistributedConfig

        plan = {"distributed_config": DistributedConfig(tp_size=2)}
    except (ImportError, TypeError):
        plan = {"tp_plan": "auto"}
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=HALF, **plan).eval()


def errors(layer, expected):
    """Of the MLP, and of the experts in each way."""
    with torch.no_grad():
        seen = {"mlp": error(layer.mlp(states().half()), expected["mlp"])}
        for way in ("eager", "batched_mm", "grouped_mm"):
            layer.experts.config._experts_implementation = way
            given = states().half(), CHOSEN, WEIGHTS.half()
            seen[way] = error(layer.experts(*given), expected["experts"])
    return seen


def rank(number, folder, saved, expected):
    os.environ |= {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": "2"}
    distributed.init_process_group("gloo", init_method=f"file://{saved}/store", rank=number, world_size=2)
    layer = loaded(saved).model.layers[0]
    seen = {"with": errors(layer, expected)}
    with (
        zoo_hooks.disabled("gemma4-mlp-fp16"),
        zoo_hooks.disabled("gemma4-experts-fp16"),
    ):
        seen["without"] = errors(layer, expected)
    Path(folder, str(number)).write_text(json.dumps(seen))


def main(folder):
    model = _tiny.unshared_model(**_tiny.EXPERTS).half().float()
    layer = model.model.layers[0]
    for weight in (layer.mlp.gate_proj.weight, layer.mlp.up_proj.weight, layer.experts.gate_up_proj):
        weight.data *= 1000
    with torch.no_grad():
        expected = {"mlp": layer.mlp(states()), "experts": layer.experts(states(), CHOSEN, WEIGHTS)}
    with tempfile.TemporaryDirectory() as saved:
        model.save_pretrained(saved)
        torch.multiprocessing.start_processes(rank, (folder, saved, expected), nprocs=2, start_method="fork")
