"""Assisted generation with a Gemma-4 assistant model raises TypeError.

Symptom
-------
``model.generate(..., assistant_model=assistant)`` raises ``TypeError:
SinglePositionMultiTokenCandidateGenerator.__init__() missing 2 required positional arguments: 'input_ids'
and 'model_kwargs'``. This happens with every assistant model of Gemma-4 and of Gemma-4 unified.

Cause
-----
``generate`` no longer passes these two arguments, because nothing reads them. The constructor still
requires them.

No issue in transformers' tracker is known. Release 5.20.0 gave both arguments a default.

Repair
------
Both arguments of the constructor get the default None. zoo-hooks passes them on by position, because
upstream warns when they are passed by keyword.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import FunctionType, ModuleType, SimpleNamespace
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Patch, Verdict, symptom
from zoo_hooks.patches.transformers import _tiny

GENERATOR = "SinglePositionMultiTokenCandidateGenerator"
SYMPTOM = "missing 2 required positional arguments: 'input_ids' and 'model_kwargs'"
NAMES = ("input_ids", "assistant_model", "target_model_input_embeddings", "generation_config", "model_kwargs")


class _Settings(SimpleNamespace):
    """A generation config in which nothing is chosen."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


_Model = type("Gemma4Model", (), {"get_input_embeddings": lambda self: self})
_Assistant = type("Gemma4AssistantModel", (), {"generation_config": _Settings()})


def probe(module: ModuleType) -> Verdict:
    generator = getattr(module, GENERATOR, None)
    if generator is None:
        return Verdict.FIXED  # no assistants
    choose = inspect.unwrap(module.GenerationMixin._get_candidate_generator)  # noqa: SLF001
    # with another constructor in its sight, since that of earlier releases does more with what it is given
    recording = FunctionType(choose.__code__, {**choose.__globals__, GENERATOR: dict})
    given = recording(_Model(), _Settings(), None, None, None, {}, _Assistant(), None, None)
    if "input_ids" in given:
        return Verdict.FIXED
    with symptom(TypeError, SYMPTOM):
        generator(**given)
        return Verdict.FIXED
    return Verdict.AFFECTED


def repair(module: ModuleType, changes: Changes) -> None:
    changes.wrap(getattr(module, GENERATOR), "__init__", _with_defaults)


def _with_defaults(original: Callable[..., None]) -> Callable[..., None]:
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807 - it is one
        original(self, *args, *(kwargs.pop(name, None) for name in NAMES[len(args) :]), **kwargs)

    return __init__


PATCH = Patch(
    module=__name__,
    title="Assisted generation with a Gemma-4 assistant model raises TypeError",
    severity="crash",
    symptoms=(
        "SinglePositionMultiTokenCandidateGenerator.__init__() missing 2 required positional arguments",
    ),
    targets=("transformers.generation.utils",),
    affects=("transformers>=5.18.0,<5.20.0",),
    links=(
        "https://github.com/huggingface/transformers/blob/v5.18.0/src/transformers/generation/candidate_generator.py#L1254-L1270",
    ),
    measures="tokens that are the same with and without an assistant model, of 8 (expected: 8)",
    probe=probe,
    repair=repair,
    canary=_tiny.assisted,
)
