"""trl's SFT trainer fails on plain TrainingArguments of transformers 5.

Symptom
-------
``SFTTrainer(args=TrainingArguments(...))`` raises ``KeyError: 'push_to_hub_token'``.

Cause
-----
The trainer converts ``TrainingArguments`` to an ``SFTConfig``. For this it removes a deprecated argument
from the dictionary of all arguments. transformers 5.0.0 removed that argument.

Repair
------
zoo-hooks passes the trainer the ``SFTConfig`` that the trainer would have created. It is created as in trl
0.27.2.
"""

from __future__ import annotations

import contextlib
import functools
import tempfile
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict, symptom

NAME = "push_to_hub_token"


def probe(module: ModuleType) -> Verdict:
    init = module.SFTTrainer.__init__

    from transformers import TrainingArguments

    if NAME in TrainingArguments.__dataclass_fields__:
        return Verdict.FIXED
    methods = {"__init__": lambda _: None, "to_dict": lambda _: _Settings()}
    arguments = type("Unmade", (TrainingArguments,), methods)()
    with contextlib.suppress(_Used):
        with symptom(KeyError, NAME, by=init):
            init(object(), model=SimpleNamespace(config=SimpleNamespace(_name_or_path="")), args=arguments)
            return Verdict.UNKNOWN  # it does not ask for the settings
        return Verdict.AFFECTED
    return Verdict.FIXED


class _Used(Exception):
    """Raised where the settings would become a config."""


class _Settings(dict[str, Any]):
    """Settings without the deprecated one."""

    def keys(self) -> Any:
        raise _Used

    __iter__ = keys


def repair(module: ModuleType, changes: Changes) -> None:
    own = functools.partial(_own, module.SFTConfig)
    changes.wrap(module.SFTTrainer, "__init__", functools.partial(_with_config, own))


def _own(config: Any, args: Any) -> Any:
    """The config that is meant by the arguments, whose dictionary hides the token."""
    from transformers import TrainingArguments

    if not isinstance(args, TrainingArguments) or isinstance(args, config):
        return args
    settings = {**args.to_dict(), "hub_token": args.hub_token}
    settings.pop(NAME, None)  # Unsloth puts it back
    return config(**settings)


def _with_config(own: Callable[[Any], Any], original: Callable[..., None]) -> Callable[..., None]:
    def __init__(self: Any, *given: Any, **named: Any) -> None:  # noqa: N807
        if len(given) > 1:
            given = (given[0], own(given[1]), *given[2:])
        elif "args" in named:
            named["args"] = own(named["args"])
        original(self, *given, **named)

    return __init__


def canary() -> Figure:
    from transformers import TrainingArguments

    from zoo_hooks.patches.trl import _tiny, availability_flags

    with _tiny.mended(availability_flags.PATCH), tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(folder, max_steps=7, report_to="none", use_cpu=True, save_strategy="no")
        with _tiny.trainer("SFT", {"text": _tiny.PROMPTS}, _tiny.model(), args=args) as made:
            seen = f"{type(made.args).__name__} of {made.args.max_steps} steps"
    return Figure(seen, healthy=seen == "SFTConfig of 7 steps")


PATCH = Patch(
    module=__name__,
    title="trl's SFT trainer fails on plain TrainingArguments",
    severity="crash",
    symptoms=("KeyError: 'push_to_hub_token' @ trl.trainer.sft_trainer",),
    targets=("trl.trainer.sft_trainer",),
    affects=("trl>=0.16.0,<0.27.2", "transformers>=5.0.0"),
    links=(
        "https://github.com/huggingface/trl/pull/4942",
        "https://github.com/huggingface/trl/pull/4691",
    ),
    measures="config that the trainer creates from arguments for 7 steps (expected: SFTConfig of 7 steps)",
    probe=probe,
    repair=repair,
    canary=canary,
)
