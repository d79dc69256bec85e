"""Trainer gathers the KV cache of models whose config says to ignore ``past_key_values``.

Symptom
-------
``Trainer.evaluate`` and ``predict`` with ``use_cache=True`` raise ``TypeError: Unsupported types (<class
'transformers.cache_utils.DynamicCache'>) passed to `_pad_across_processes` ``. This happens for models
whose config has ``keys_to_ignore_at_inference = ["past_key_values"]``, such as those whose code comes with
their checkpoint. It also happens with ``ignore_keys=["past_key_values"]``.

Cause
-----
From 5.24.0 on, model outputs list the cache under the name ``cache``. The Trainer compares the names in the
output literally with the names to ignore, so it does not find ``cache`` among them.

Repair
------
If one of the cache's names is to be ignored, the Trainer ignores all of its names. The config, and the list
that was passed, are not changed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches.transformers import _cache_name, _foreign

_NAMES = (_cache_name.NEW, *_cache_name.OLD)
_NAME, _PLACE = "ignore_keys", 4
"""Where Trainer.prediction_step takes them, counting the trainer."""


def probe(module: ModuleType) -> Verdict:
    found = _cache_name.strings(inspect.unwrap(module.Trainer.prediction_step))
    if _cache_name.OLD[0] in found:
        return Verdict.FIXED
    return Verdict.AFFECTED if _cache_name.NEW in found else Verdict.UNKNOWN


def repair(module: ModuleType, changes: Changes) -> None:
    changes.wrap(module.Trainer, "prediction_step", _ignoring)


def _ignoring(original: Callable[..., Any]) -> Callable[..., Any]:
    name = _cache_name.parameters(original)[_PLACE]

    def prediction_step(*args: Any, **kwargs: Any) -> Any:
        if len(args) > _PLACE:
            args = (*args[:_PLACE], _with_all_names(args[0], args[_PLACE]), *args[_PLACE + 1 :])
        else:
            given = _NAME if _NAME in kwargs else name
            kwargs[given] = _with_all_names(args[0], kwargs.get(given))
        return original(*args, **kwargs)

    return prediction_step


def _with_all_names(trainer: Any, ignored: Any) -> Any:
    config = getattr(trainer.model, "config", None)
    if ignored is None and config is not None:
        ignored = getattr(config, "keys_to_ignore_at_inference", _NAMES)
    if ignored and not set(ignored).isdisjoint(_NAMES):
        return [*dict.fromkeys((*ignored, *_NAMES))]
    return ignored


def canary() -> Figure:
    import tempfile

    import accelerate  # noqa: F401 - without it there is no Trainer
    import torch
    import transformers

    class Config(transformers.LlamaConfig):  # type: ignore[misc]
        keys_to_ignore_at_inference = ["past_key_values"]  # noqa: RUF012 - as people write it

    model = transformers.LlamaForCausalLM(Config(**_foreign.SHAPE))
    rows = [{"input_ids": torch.arange(4), "labels": torch.arange(4)}] * 2
    with tempfile.TemporaryDirectory() as folder:
        settings = transformers.TrainingArguments(folder, report_to="none", use_cpu=True, disable_tqdm=True)
        trainer = transformers.Trainer(model, settings)
        model.config.use_cache = True
        predictions = trainer.predict(rows).predictions
    shape = tuple(getattr(predictions, "shape", ()))
    return Figure(str(shape), healthy=shape == (2, 4, _foreign.SHAPE["vocab_size"]))


PATCH = Patch(
    module=__name__,
    title="Trainer gathers the KV cache of models whose config says to ignore past_key_values",
    severity="crash",
    symptoms=("Unsupported types (<class 'transformers.cache_utils.*) passed to `_pad_across_processes`",),
    targets=("transformers.trainer",),
    affects=("transformers>=5.24.0",),
    links=(
        "https://github.com/huggingface/transformers/blob/v5.24.0/src/transformers/trainer.py#L3233-L3237",
    ),
    measures="shape of the predictions that Trainer.predict gathers (expected: (2, 4, 64))",
    probe=probe,
    repair=repair,
    canary=canary,
    behavioural=False,
)
