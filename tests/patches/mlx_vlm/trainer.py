"""Trains tiny models with mlx-vlm's own trainers: ``python trainer.py MODEL CHECKPOINTED TRAINER``.

A child of the tests, for checkpointing changes a class for good. Prints as JSON how far the gradients
of three steps are from those of a forward with caches that stay at offset 0, and its losses. TRAINER is
``train``, which gets one row, or ``Trainer``, which newer releases have, and which gets unequal rows.
"""

import json
import sys
import tempfile
from types import SimpleNamespace

import mlx.core as mx
import mlx.optimizers as optim
import mlx_vlm.trainer
from mlx import nn
from mlx.utils import tree_flatten
from mlx_vlm.models import gemma3n

from zoo_hooks.patches.mlx_lm import _tiny
from zoo_hooks.patches.mlx_lm._linked import Held

STEPS, LENGTH, RATE = 3, 12, 0.01


class Gemma3n(gemma3n.Model):
    """mlx-vlm's own, without the towers, which are large."""

    def __init__(self):
        nn.Module.__init__(self)
        self.language_model = _tiny.gemma3n()
        self.config = SimpleNamespace(model_type="gemma3n")
        self.vocab_size_per_layer_input = _tiny.TEXT["vocab_size_per_layer_input"]


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
    model = _tiny.gemma4_with_towers() if name == "gemma4" else Gemma3n()
    names = ["q_proj", "k_proj", "v_proj"]
    some = {"rank": 4, "alpha": 8, "dropout": 0.0, "verbose": False}
    return _tiny.filled(mlx_vlm.trainer.get_peft_model(model, names, **some))


def gradients_at(model, weights, rows):
    """Those of eager forwards of each row alone, whose layers share K/V through caches at offset 0."""

    def loss(some):
        losses = [
            nn.losses.cross_entropy(
                some.language_model(row[:, :-1], cache=[Held() for _ in range(6)]).logits, row[:, 1:]
            )
            for row in rows
        ]
        return mx.concatenate(losses, axis=1).mean()

    model.load_weights(weights, strict=False)
    value, gradients = nn.value_and_grad(model, loss)(model)
    return value.item(), dict(tree_flatten(gradients))


def with_train(model, optimiser, rows, shared):
    """One text after the other, in the function that all releases have."""
    items = [{"input_ids": row, "attention_mask": mx.ones_like(row), "pixel_values": None} for row in rows]
    args = mlx_vlm.trainer.TrainingArgs(batch_size=1, max_seq_length=LENGTH, grad_clip=None, **shared)
    mlx_vlm.trainer.train(model, optimiser, items, args=args)


def with_trainer(model, optimiser, rows, shared):
    """All texts in a batch, in the class that newer releases have."""
    args = mlx_vlm.trainer.VLMTrainingArgs(batch_size=len(rows), **shared)
    items = [{"input_ids": row[0], "attention_mask": mx.ones_like(row[0])} for row in rows]
    mlx_vlm.trainer.Trainer(model, args, train_dataset=items, optimizer=optimiser, prepared=True).train()


def main(name, checkpointed, train):
    """Print what the trainer did."""
    lengths = [LENGTH] if train is with_train else [LENGTH, 9, 6]
    rows = [_tiny.prompt(LENGTH, n + 1)[n:, :length] for n, length in enumerate(lengths)]
    model, optimiser = adapted(name), Recording()
    layer = type(model.language_model.layers[0])
    call = layer.__call__
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/adapters.safetensors"
        shared = {"iters": STEPS, "steps_per_report": STEPS, "steps_per_save": 100, "adapter_file": file}
        train(model, optimiser, rows, shared | {"grad_checkpoint": checkpointed})
    assert (layer.__call__ is not call) == checkpointed  # the trainer has done it, or left it
    layer.__call__ = call
    errors, losses = [], []
    for weights, seen in optimiser.seen:
        value, expected = gradients_at(model, weights, rows)
        errors.append(_tiny.error(expected, seen))
        losses.append(value)
    assert len(errors) == STEPS
    print(json.dumps({"errors": errors, "losses": losses}))


if __name__ == "__main__":
    trainers = {"train": with_train, "Trainer": with_trainer}
    main(sys.argv[1], sys.argv[2] == "checkpointed", trainers[sys.argv[3]])
