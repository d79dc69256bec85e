"""With gradient accumulation, ``Trainer`` does not average the losses of classifiers.

Symptom
-------
With ``gradient_accumulation_steps=n``, the gradients and the logged loss of sequence and token classifiers
are ``n`` times as large as in one batch. This affects Llama, Qwen and others that share their
classification heads, and BERT and others that compute their loss themselves. Up to 5.14, it also affects
all models with ``label_smoothing_factor``. There is no error, but gradient clipping acts differently.

Cause
-----
``Trainer`` assumes that a model whose forward has ``**kwargs`` divides its loss by the number of items in
all batches of a step. These heads accept that number and do not use it, and label smoothing did not get it.
So neither the model nor ``Trainer`` divides the loss.

Repair
------
zoo-hooks looks for transformers models whose forward computes a loss without passing its keyword arguments
to it, and for label smoothing that does not get the number. For these, ``Trainer`` divides by the number of
batches, as it does for models without ``**kwargs``.
Trainers that compute the loss themselves are left alone, and so are models that define
``accepts_loss_kwargs``. From 5.2.0 to 5.5.3, accelerate divides a second time. The gradients are then
right, so zoo-hooks changes nothing there.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches import _known
from zoo_hooks.patches.transformers import _loss_items

FLAG = _loss_items.FLAG
DIVIDED_TWICE = b'["num_steps"] = self.args.gradient_accumulation_steps'


def probe(module: ModuleType) -> Verdict:
    if not find_spec("transformers.modeling_layers"):
        return Verdict.FIXED
    from transformers import modeling_layers

    head = getattr(modeling_layers, "GenericForSequenceClassification", None)
    if head is None or not _loss_items.drops(head.forward):
        return Verdict.FIXED
    made = _known.text(inspect.unwrap(module.Trainer.create_accelerator_and_postprocess))
    if DIVIDED_TWICE in made:
        return Verdict.FIXED
    return (
        Verdict.AFFECTED
        if FLAG in inspect.unwrap(module.Trainer.__init__).__code__.co_names
        else Verdict.UNKNOWN
    )


def repair(module: ModuleType, changes: Changes) -> None:
    compute_loss = module.Trainer.compute_loss

    def make(original: Callable[..., None]) -> Callable[..., None]:
        def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
            original(self, *args, **kwargs)
            if (
                getattr(self, FLAG)
                and self.compute_loss_func is None
                and type(self).compute_loss is compute_loss
                and self.accelerator.gradient_accumulation_steps == 1
                and (_smooths(self) or _means(self.accelerator.unwrap_model(self.model)))
            ):
                vars(self)[FLAG] = False

        return __init__

    changes.wrap(module.Trainer, "__init__", make)


def _means(model: Any) -> bool:
    """Tell whether it is a model of transformers whose loss is its batch's mean, or an adapter's of one."""
    model = _loss_items.base(model)
    forward = type(model).forward
    own = inspect.unwrap(forward).__module__.startswith("transformers.")
    return own and not hasattr(model, "accepts_loss_kwargs") and _loss_items.drops(forward)


def _smooths(trainer: Any) -> bool:
    """Tell whether the loss comes from label smoothing that does not get the number of items."""
    smoother = trainer.label_smoother
    return smoother is not None and _loss_items.ITEMS not in inspect.signature(smoother).parameters


def canary() -> Figure:
    return _loss_items.times("LlamaForSequenceClassification", pad_token_id=0)


PATCH = Patch(
    module=__name__,
    title="With gradient accumulation, Trainer does not average the losses of classifiers",
    severity="silent wrong result",
    targets=("transformers.trainer",),
    affects=("transformers>=4.54.0,!=5.2.0,!=5.3.0,!=5.4.0,!=5.5.0,!=5.5.1,!=5.5.2,!=5.5.3",),
    links=(
        "https://github.com/huggingface/transformers/issues/47688",
        "https://github.com/huggingface/transformers/pull/47836",
    ),
    measures="gradient of a classifier accumulated over two batches, relative to one batch (expected: 1.0)",
    probe=probe,
    repair=repair,
    canary=canary,
    behavioural=False,
)
