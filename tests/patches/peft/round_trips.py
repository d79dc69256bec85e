"""Adapters written and read back by a child interpreter: ``python round_trips.py write|read FOLDER``.

Each scenario is tried by itself, and the child prints as JSON what became of it: the largest difference
of logits, or the error that was raised. Base models are the same in every process.
"""

from __future__ import annotations

import contextlib
import json
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

import zoo_hooks

CONVERSIONS = "peft.utils.transformers_weight_conversion"
PROMPT = torch.tensor([[1, 2, 3, 4, 5, 6]])
EXPERTS = 4
SIZES = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "num_local_experts": EXPERTS,
}
SHAPES = {"w1": (24, 16), "w2": (16, 24), "w3": (24, 16)}


def base(model_type):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **SIZES)).eval()


@torch.no_grad()
def logits(model):
    return model(PROMPT).logits


def write(model_type, folder):
    """Save an adapter of the attention, and the logits that its model gives."""
    import peft

    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    model = peft.get_peft_model(base(model_type), config).eval()
    model.save_pretrained(folder)
    save_file({"logits": logits(model)}, folder / "logits")
    assert not torch.allclose(logits(model), logits(base(model_type)), atol=1e-3), "the adapter does nothing"


def read(model_type, folder):
    """Load the adapter into a fresh model; how far its logits are from those that were saved."""
    import peft

    model = peft.PeftModel.from_pretrained(base(model_type), folder).eval()
    return float((logits(model) - load_file(folder / "logits")["logits"]).abs().max())


def write_experts(folder):
    """Write an adapter of Mixtral's experts as peft does with transformers 4, and what it comes to."""
    import peft

    torch.manual_seed(1)
    adapter, rank, alpha = {}, 2, 4
    model = base("mixtral")
    for layer in range(SIZES["num_hidden_layers"]):
        for expert in range(EXPERTS):
            for name, (rows, columns) in SHAPES.items():
                a, b = torch.randn(rank, columns), torch.randn(rows, rank)
                key = f"base_model.model.model.layers.{layer}.block_sparse_moe.experts.{expert}.{name}"
                adapter |= {f"{key}.lora_A.weight": a, f"{key}.lora_B.weight": b}
                with torch.no_grad():
                    weight(model, layer, expert, name).add_(b @ a * (alpha / rank))
    config = peft.LoraConfig(
        r=rank, lora_alpha=alpha, target_modules=list(SHAPES), base_model_name_or_path=""
    )
    config.save_pretrained(folder)
    save_file(adapter, folder / "adapter_model.safetensors")
    save_file({"logits": logits(model)}, folder / "logits")


def weight(model, layer, expert, name):
    """The weight of one expert, by its old name; transformers 5 has w1 and w3 as one, for all experts."""
    block = model.model.layers[layer]
    if hasattr(block, "block_sparse_moe"):
        return getattr(block.block_sparse_moe.experts[expert], name).weight
    experts = block.mlp.experts
    half = SIZES["intermediate_size"]
    part = {"w1": slice(0, half), "w3": slice(half, None)}
    return experts.down_proj[expert] if name == "w2" else experts.gate_up_proj[expert, part[name]]


def write_all(folder):
    write("llama", folder / "dense")
    write("mixtral", folder / "mixtral")
    (folder / "experts").mkdir()
    write_experts(folder / "experts")


@contextlib.contextmanager
def process_group():
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


def read_distributed(folder):
    with process_group():
        return max(read("llama", folder / "dense"), read("mixtral", folder / "mixtral"))


def visible():
    """What others may ask of transformers to tell its releases apart."""
    modules = ("transformers.conversion_mapping", "transformers.core_model_loading")
    there = {name: name in sys.modules or find_spec(name) is not None for name in modules}
    return there | {"HybridCache": hasattr(transformers, "HybridCache")}


def tried(scenario, *arguments):
    try:
        return scenario(*arguments)
    except Exception as error:  # noqa: BLE001 - it is what the scenario comes to
        return f"{type(error).__name__}: {error}"


def main(task, folder):
    folder = Path(folder)
    before = visible()
    written = tried(write_all, folder) if task == "write" else None
    results = {
        "import": tried(lambda: import_module("peft").__name__),
        "conversions": tried(lambda: import_module(CONVERSIONS).__name__),
        "dense": tried(read, "llama", folder / "dense"),
        "mixtral": tried(read, "mixtral", folder / "mixtral"),
        "experts": tried(read, "mixtral", folder / "experts"),
        "distributed": tried(read_distributed, folder),
    }
    statuses = {row.id: row.status.name for row in zoo_hooks.report().rows}
    told = {"before": before, "after": visible(), "statuses": statuses, "written": written}
    print(json.dumps({"results": results, **told}))


if __name__ == "__main__":
    main(*sys.argv[1:])
