"""Generation with an assistant of Gemma-4 does not start.

Symptom
-------
``model.generate(..., assistant_model=assistant)`` with an assistant of Gemma-4, or of its unified form,
raises ``TypeError: SinglePositionMultiTokenCandidateGenerator.__init__() missing 2 required positional
arguments: 'input_ids' and 'model_kwargs'``.

Cause
-----
``generate`` no longer hands the two over, for nothing reads them, but the constructor still insists on them.

No issue of transformers' is known; 5.20.0 gave both a default.

Repair
------
The constructor has a default for both. They are handed on by position: by name upstream warns of them.
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
    title="Generation with an assistant of Gemma-4 does not start",
    severity="crash",
    symptoms=(
        "SinglePositionMultiTokenCandidateGenerator.__init__() missing 2 required positional arguments",
    ),
    targets=("transformers.generation.utils",),
    affects=("transformers>=5.18.0,<5.20.0",),
    links=(
        "https://github.com/huggingface/transformers/blob/v5.18.0/src/transformers/generation/candidate_generator.py#L1254-L1270",
    ),
    measures="tokens generated with an assistant that are those without, of eight (expected: 8)",
    probe=probe,
    repair=repair,
    canary=_tiny.assisted,
)
