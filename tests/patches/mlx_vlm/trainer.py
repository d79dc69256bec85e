"""Trains tiny models with mlx-vlm's own trainer: ``python trainer.py MODEL CHECKPOINTED``.

A child of the tests, for checkpointing changes a class for good. Prints as JSON how far the gradients
of three steps are from those of a forward with caches that stay at offset 0, and its losses.
"""

import json
import sys
import tempfile
from types import SimpleNamespace

import mlx.core as mx
import mlx.optimizers as optim
from mlx import nn
from mlx.utils import tree_flatten
from mlx_vlm.trainer import TrainingArgs, get_peft_model, train

from zoo_hooks.patches.mlx_lm import _tiny
from zoo_hooks.patches.mlx_lm._linked import Held

STEPS, LENGTH, RATE = 3, 12, 0.01


class Shell(nn.Module):
    """A language model where the trainer looks for it."""

    def __init__(self, language_model):
        super().__init__()
        self.language_model = language_model
        self.config = SimpleNamespace(model_type="gemma3n")

    def __call__(self, input_ids, pixel_values=None, mask=None, cache=None):  # noqa: ARG002 - the trainer's
        return self.language_model(input_ids, cache=cache)


class Recording(optim.SGD):
    """Keeps the gradients that it is given, with the weights at which they were taken."""

    def __init__(self):
        super().__init__(RATE)
        self.seen = []

    def apply_gradients(self, gradients, parameters):
        given = dict(tree_flatten(gradients))
        weights = [(name, mx.array(weight)) for name, weight in tree_flatten(parameters) if name in given]
        mx.eval(given, weights)
        self.seen.append((weights, given))
        return super().apply_gradients(gradients, parameters)


def adapted(name):
    """A model with LoRA on its projections, the same each time."""
    model = _tiny.gemma4_with_towers() if name == "gemma4" else Shell(_tiny.gemma3n())
    names = ["q_proj", "k_proj", "v_proj"]
    return _tiny.filled(get_peft_model(model, names, rank=4, alpha=8, dropout=0.0, verbose=False))


def gradients_at(model, weights, tokens):
    """Those of an eager forward, whose layers share K/V through caches at offset 0."""

    def loss(some):
        caches = [Held() for _ in range(6)]
        logits = some(tokens[:, :-1], cache=caches).logits
        return nn.losses.cross_entropy(logits, tokens[:, 1:]).mean()

    model.load_weights(weights, strict=False)
    value, gradients = nn.value_and_grad(model, loss)(model)
    return value.item(), dict(tree_flatten(gradients))


def main(name, checkpointed):
    """Print what the trainer did."""
    tokens = _tiny.prompt(LENGTH)
    model, optimiser = adapted(name), Recording()
    layer = type(model.language_model.layers[0])
    call = layer.__call__
    item = {"input_ids": tokens, "attention_mask": mx.ones_like(tokens), "pixel_values": None}
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArgs(
            batch_size=1,
            iters=STEPS,
            steps_per_report=STEPS,
            steps_per_save=100,
            max_seq_length=LENGTH,
            adapter_file=f"{folder}/adapters.safetensors",
            grad_checkpoint=checkpointed,
            grad_clip=None,
        )
        train(model, optimiser, [item], args=args)
    assert (layer.__call__ is not call) == checkpointed  # the trainer has done it, or left it
    layer.__call__ = call
    errors, losses = [], []
    for weights, seen in optimiser.seen:
        value, expected = gradients_at(model, weights, tokens)
        errors.append(_tiny.error(expected, seen))
        losses.append(value)
    assert len(errors) == STEPS
    print(json.dumps({"errors": errors, "losses": losses}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] == "checkpointed")
