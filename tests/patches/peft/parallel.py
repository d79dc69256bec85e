"""An adapter that one process saves and two that are tensor parallel load.

``python parallel.py FOLDER MODEL_TYPE TARGET ...``, then the same with
``python -m torch.distributed.run --standalone --nproc-per-node 2``. It prints as JSON the largest difference
from the logits of one process, how much the adapter changes them, and the rows of a weight that are here.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import peft
import torch
from round_trips import logits
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

import zoo_hooks

SIZES = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_local_experts": 4,
    "tie_word_embeddings": False,
}


def write(folder, model_type, targets):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **SIZES)).eval()
    model.save_pretrained(folder / "base")
    plain = logits(model)
    experts = [name for name in targets if name.endswith("_up_proj") and model_type == "mixtral"]
    experts += ["down_proj"] * bool(experts)
    linear = [name for name in targets if name not in experts]
    config = peft.LoraConfig(
        r=2, target_modules=linear, target_parameters=experts or None, init_lora_weights=False
    )
    model = peft.get_peft_model(model, config).eval()
    model.save_pretrained(folder / "adapter", save_embedding_layers=False)
    save_file({"with": logits(model), "without": plain}, folder / "logits")


def parallel(folder):
    try:
        from transformers.distributed import DistributedConfig

        plan = {"distributed_config": DistributedConfig(tp_size=2)}
    except (ImportError, TypeError):
        plan = {"tp_plan": "auto"}
    return AutoModelForCausalLM.from_pretrained(folder / "base", **plan).eval()


def read(folder):
    base = parallel(folder)
    weight = base.model.layers[0].self_attn.q_proj.weight
    rows = (weight.to_local() if hasattr(weight, "to_local") else weight).shape[0]
    try:
        model = peft.PeftModel.from_pretrained(base, folder / "adapter").eval()
        made = logits(model)
        expected = load_file(folder / "logits")
        made = made.full_tensor() if hasattr(made, "full_tensor") else made
        gap = float((made - expected["with"]).abs().max())
        change = float((expected["without"] - expected["with"]).abs().max())
    except Exception as error:  # noqa: BLE001 - it is what loading comes to
        gap, change = f"{type(error).__name__}: {error}", None
    status = zoo_hooks.report()["peft/adapter-sharding-import"].status.name
    if os.environ["RANK"] == "0":
        print(json.dumps({"gap": gap, "change": change, "rows": rows, "status": status}))


def main(folder, model_type, *targets):
    if "RANK" in os.environ:
        read(Path(folder))
        torch.distributed.destroy_process_group()
    else:
        write(Path(folder), model_type, targets)


if __name__ == "__main__":
    main(*sys.argv[1:])
