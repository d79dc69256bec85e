"""Logits and gradients of the same weights in transformers: ``python shared_kv_oracle.py INPUT OUTPUT``.

The oracle of the tests of MLX models. It runs in an environment that has torch, without hooks and
with eager attention. INPUT holds the weights of one model by their names in MLX, its config as JSON
and the tokens, perhaps with a mask of padding; OUTPUT gets the logits and the gradients of the
projections that make K and V.
"""

import json
import sys

import numpy as np
import torch
import transformers


def main(source: str, target: str) -> None:
    """Write the truth about one model."""
    given = dict(np.load(source))
    tokens = torch.from_numpy(given.pop("tokens")).long()
    mask = torch.from_numpy(given.pop("mask")) if "mask" in given else None
    family, config = json.loads(str(given.pop("model")))
    kind, shape = {
        "gemma4": (transformers.Gemma4ForCausalLM, transformers.Gemma4TextConfig),
        "gemma3n": (transformers.Gemma3nForCausalLM, transformers.Gemma3nTextConfig),
    }[family]
    model = kind._from_config(shape(**config), attn_implementation="eager", dtype=torch.float32).eval()
    own = {name for name, _ in [*model.named_parameters(), *model.named_buffers()]}
    first = config["num_hidden_layers"] - config["num_kv_shared_layers"]
    unused = tuple(f"model.layers.{n}.self_attn.{part}" for n in range(first, config["num_hidden_layers"])
                   for part in ("k_", "v_"))  # fmt: skip
    weights = {f"model.{name.removeprefix('model.')}": torch.from_numpy(w) for name, w in given.items()}
    weights = {name: w for name, w in weights.items() if not (name.startswith(unused) and name not in own)}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    left = [name for name in missing if name != "lm_head.weight" and name in dict(model.named_parameters())]
    if left or unexpected:
        raise SystemExit(f"weights that only transformers has: {left}; that only MLX has: {unexpected}")
    logits = model(input_ids=tokens, attention_mask=mask).logits
    torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).backward()
    gradients = {
        name: parameter.grad.numpy()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and ("k_proj" in name or "v_proj" in name)
    }
    np.savez(target, logits=logits.detach().numpy(), **gradients)


if __name__ == "__main__":
    main(*sys.argv[1:])
