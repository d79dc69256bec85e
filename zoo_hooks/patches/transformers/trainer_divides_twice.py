"""With gradient accumulation, ``Trainer`` divides the gradients by the number of batches once too often.

Symptom
-------
With ``gradient_accumulation_steps=n``, the gradients are ``n`` times too small: 0.5 of those of one batch for
two batches, 0.25 for four. The logged loss is correct, and there is no error. Gradient clipping and weight
decay act differently. This affects language models, models without ``**kwargs``, and trl's SFT and GRPO
trainers.

Cause
-----
The model or ``Trainer`` divides the loss by all items, or by all batches, of a step. These releases also
tell accelerate the number of batches, and its ``backward`` divides again.

Repair
------
While ``Trainer.training_step`` runs, accelerate counts one batch per step, as it does from 5.5.4 on. This is
only done where it is sure that the loss has been divided: by ``Trainer``, by the model's ``loss_function``,
or by a function or method that uses ``num_items_in_batch``. Elsewhere the second division stays. There the
gradients can be correct, as for classifiers and with label smoothing. A trainer whose ``compute_loss`` or
``training_step`` uses ``gradient_accumulation_steps`` is left alone. With DeepSpeed, accelerate does not
divide.
"""

from __future__ import annotations

import dis
import functools
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches import _known
from zoo_hooks.patches.transformers import _loss_items, _one_batch

ITEMS = _loss_items.ITEMS
TOLD = b'["num_steps"] = self.args.gradient_accumulation_steps'
STEPS = "gradient_accumulation_steps"


def probe(module: ModuleType) -> Verdict:
    trainer = module.Trainer
    creating = "create_accelerator_and_postprocess"
    if not hasattr(trainer, creating) or TOLD not in _known.text(inspect.unwrap(getattr(trainer, creating))):
        return Verdict.FIXED
    step = inspect.unwrap(trainer.training_step)
    if ITEMS not in inspect.signature(step).parameters:
        return Verdict.UNKNOWN
    names = step.__code__.co_names
    known = {_loss_items.FLAG, "compute_loss_func", "current_gradient_accumulation_steps", "backward"}
    return Verdict.AFFECTED if known <= {*names} else Verdict.UNKNOWN


def repair(module: ModuleType, changes: Changes) -> None:
    trainer = module.Trainer
    at = [*inspect.signature(trainer.training_step).parameters].index(ITEMS) - 1

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def training_step(self: Any, *args: Any, **kwargs: Any) -> Any:
            if self.accelerator.gradient_accumulation_steps == 1 or self.is_deepspeed_enabled:
                return original(self, *args, **kwargs)
            items = args[at] if len(args) > at else kwargs.get(ITEMS)
            kinds = type(self).__mro__[: type(self).__mro__.index(trainer)]
            if _corrected(kinds) or not _divided(kinds, self, items):
                return original(self, *args, **kwargs)
            with _one_batch.counted(self.accelerator):
                return original(self, *args, **kwargs)

        return training_step

    changes.wrap(trainer, "training_step", make)


def _corrected(kinds: tuple[Any, ...]) -> bool:
    """Tell whether a subclass deals with the number of batches, as to make up for the second division."""
    own = [vars(kind).get(name) for kind in kinds for name in ("compute_loss", "training_step")]
    return any(_told(_code(method), STEPS) for method in own)


def _divided(kinds: tuple[Any, ...], self: Any, items: Any) -> bool:
    """Tell whether the loss is sure to be divided before it reaches accelerate."""
    function = self.compute_loss_func
    if function is None and (items is None or not getattr(self, _loss_items.FLAG)):
        return True  # by Trainer
    if function is not None and not callable(function):
        return True  # by a trainer of trl, which has put a text there to say so
    for method in [vars(kind)["compute_loss"] for kind in kinds if "compute_loss" in vars(kind)]:
        if not _told(_code(method), ITEMS) or "compute_loss" not in _code(method).co_names:
            return _told(_code(method), ITEMS)  # by this method, which does not hand it on
    return _told(_code(function), ITEMS) if function is not None else _by_model(self)


def _by_model(self: Any) -> bool:
    model = _loss_items.base(self.accelerator.unwrap_model(self.model))
    return self.label_smoother is None and _loss_items.divides(type(model).forward)


def _code(function: Any) -> Any:
    return getattr(inspect.unwrap(function), "__code__", None)


@functools.lru_cache(maxsize=64)
def _told(code: Any, name: str) -> bool:
    """Tell whether a function reads a name, or the keywords among which it gets it."""
    if code is None:
        return False
    count = code.co_argcount + code.co_kwonlyargcount + bool(code.co_flags & inspect.CO_VARARGS)
    unnamed = name == ITEMS and name not in code.co_varnames and code.co_flags & inspect.CO_VARKEYWORDS
    wanted = {code.co_varnames[count] if unnamed else name}
    for one in dis.get_instructions(code):
        read = one.argval if isinstance(one.argval, tuple) else (one.argval,)
        if one.opname.startswith("LOAD") and wanted & {*map(str, read)}:
            return True
    return False


def canary() -> Figure:
    return _loss_items.times("LlamaForCausalLM")


PATCH = Patch(
    module=__name__,
    title="With gradient accumulation, Trainer divides the gradients once too often",
    severity="silent wrong result",
    targets=("transformers.trainer",),
    affects=("transformers>=5.2.0,<5.5.4",),
    links=(
        "https://github.com/huggingface/transformers/issues/45305",
        "https://github.com/huggingface/transformers/pull/45349",
    ),
    measures="gradient of a model accumulated over two batches, relative to one batch (expected: 1.0)",
    probe=probe,
    repair=repair,
    canary=canary,
    behavioural=False,
)
