"""With gradient accumulation, ``Trainer`` does not average the losses of classifiers.

Symptom
-------
With ``gradient_accumulation_steps=n``, the gradients and the logged loss of sequence and token classifiers
are ``n`` times as large as in one batch. This affects Llama, Qwen and others that share their
classification heads, and BERT and others that compute their loss themselves. There is no error, but
gradient clipping acts differently.

Cause
-----
``Trainer`` assumes that a model whose forward has ``**kwargs`` divides its loss by the number of items in
all batches of a step. These heads accept that number and do not use it. So neither the model nor
``Trainer`` divides the loss.

Repair
------
zoo-hooks looks for transformers models whose forward computes a loss without passing its keyword arguments
to it. For these, ``Trainer`` divides by the number of batches, as it does for models without ``**kwargs``.
Trainers that compute the loss themselves are left alone, and so are models that define
``accepts_loss_kwargs``. From 5.2.0 to 5.5.3, accelerate divides a second time. The gradients are then
right, so zoo-hooks changes nothing there.
"""

from __future__ import annotations

import dis
import inspect
from collections.abc import Callable
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict

FLAG, ITEMS, LOSS = "model_accepts_loss_kwargs", "num_items_in_batch", "loss_function"
MEANS = {"CrossEntropyLoss", "MSELoss", "BCEWithLogitsLoss"}
DIVIDED_TWICE = '["num_steps"] = self.args.gradient_accumulation_steps'


def probe(module: ModuleType) -> Verdict:
    if not find_spec("transformers.modeling_layers"):
        return Verdict.FIXED
    from transformers import modeling_layers

    head = getattr(modeling_layers, "GenericForSequenceClassification", None)
    if head is None or not _drops(head.forward):
        return Verdict.FIXED
    made = inspect.getsource(inspect.unwrap(module.Trainer.create_accelerator_and_postprocess))
    if DIVIDED_TWICE in made:
        return Verdict.FIXED
    return (
        Verdict.AFFECTED
        if FLAG in inspect.unwrap(module.Trainer.__init__).__code__.co_names
        else Verdict.UNKNOWN
    )


def _drops(forward: Any) -> bool:
    """Tell whether a forward that takes any keywords computes a loss to which it hands none of them."""
    code = inspect.unwrap(forward).__code__
    if not code.co_flags & inspect.CO_VARKEYWORDS or ITEMS in (
        *code.co_names,
        *code.co_varnames,
        *code.co_consts,
    ):
        return False
    if LOSS not in code.co_names:
        return bool(MEANS & {*code.co_names})
    handing = computing = False
    for one in dis.get_instructions(code):
        computing = one.argval == LOSS or (computing and not one.opname.startswith("STORE_FAST"))
        handing |= computing and one.opname == "CALL_FUNCTION_EX"
    return not handing


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
                and _means(self.accelerator.unwrap_model(self.model))
            ):
                vars(self)[FLAG] = False

        return __init__

    changes.wrap(module.Trainer, "__init__", make)


def _means(model: Any) -> bool:
    """Tell whether it is a model of transformers whose loss is its batch's mean, or an adapter's of one."""
    model = model.get_base_model() if hasattr(model, "get_base_model") else model
    forward = type(model).forward
    own = inspect.unwrap(forward).__module__.startswith("transformers.")
    return own and not hasattr(model, "accepts_loss_kwargs") and _drops(forward)


def canary() -> Figure:
    import tempfile

    import accelerate  # noqa: F401 - without it there is no Trainer
    import torch
    import transformers

    def gradient(size: int, steps: int) -> torch.Tensor:
        torch.manual_seed(0)
        model = transformers.LlamaForSequenceClassification(
            transformers.LlamaConfig(
                vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
                num_key_value_heads=2, pad_token_id=0,
            )
        )  # fmt: skip
        seen = []
        model.score.weight.register_post_accumulate_grad_hook(lambda weight: seen.append(weight.grad.clone()))
        rows = [{"input_ids": torch.tensor([1, 2, 3 + n]), "labels": n % 2} for n in range(4)]
        with tempfile.TemporaryDirectory() as folder:
            args = transformers.TrainingArguments(
                folder, max_steps=1, per_device_train_batch_size=size, gradient_accumulation_steps=steps,
                report_to="none", save_strategy="no", use_cpu=True, disable_tqdm=True,
            )  # fmt: skip
            transformers.Trainer(model=model, args=args, train_dataset=rows).train()
        return seen[-1]

    with torch.random.fork_rng(devices=[]):
        one, two = gradient(4, 1), gradient(2, 2)
    times = round(float((two * one).sum() / (one * one).sum()), 4)
    return Figure(times, healthy=abs(times - 1) < 1e-3)  # noqa: PLR2004


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
