"""enable_input_require_grads raises on models with parts that have no input embeddings.

Symptom
-------
``model.enable_input_require_grads()`` raises ``NotImplementedError: get_input_embeddings not auto-handled``
on models with a vision tower, such as Gemma-3 and GLM-4V. Gradient checkpointing under PEFT calls it, and
fails as well.

Cause
-----
The release candidates 5.0.0rc0 and rc1 ask every part of the model for its input embeddings. A part that is
a ``PreTrainedModel`` without such embeddings raises this error.

Repair
------
The repaired method visits the same parts, and skips those without input embeddings. All other releases keep
their own method, which does this or better.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import suppress
from types import ModuleType
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict


class _NoEmbeddingsError(NotImplementedError):
    """What a part without input embeddings answers in the models below, and nothing else does."""


def probe(module: ModuleType) -> Verdict:
    names = inspect.unwrap(module.PreTrainedModel.enable_input_require_grads).__code__.co_names
    if "get_input_embeddings" in names and ("modules" not in names or "NotImplementedError" in names):
        return Verdict.FIXED  # it asks no parts, or expects that they have none
    model = _two_parts(module)
    with suppress(_NoEmbeddingsError):
        model.enable_input_require_grads()
        hooks = len(model.embeddings._forward_hooks)  # noqa: SLF001
        return Verdict.FIXED if hooks == 1 else Verdict.UNKNOWN
    return Verdict.AFFECTED


def repair(module: ModuleType, changes: Changes) -> None:
    changes.wrap(module.PreTrainedModel, "enable_input_require_grads", _passing_by)


def canary() -> Figure:
    from transformers import modeling_utils

    model = _two_parts(modeling_utils)
    model.enable_input_require_grads()
    hooks = len(model.embeddings._forward_hooks)  # noqa: SLF001
    return Figure(hooks, healthy=hooks == 1)


def _passing_by(original: Callable[..., None]) -> Callable[..., None]:
    kind = original.__globals__["PreTrainedModel"]

    def hook(_module: Any, _inputs: Any, output: Any) -> None:
        output.requires_grad_()

    def enable(self: Any) -> None:
        found = {}
        for part in self.modules():
            if isinstance(part, kind):
                with suppress(NotImplementedError):
                    embeddings = part.get_input_embeddings()
                    if hasattr(embeddings, "register_forward_hook"):
                        found[id(embeddings)] = embeddings
        self._require_grads_hooks = [e.register_forward_hook(hook) for e in found.values()]
        if self._require_grads_hooks:
            self._require_grads_hook = self._require_grads_hooks[0]

    return enable


def _two_parts(module: ModuleType) -> Any:
    """A model with input embeddings, and in it one without; neither has weights."""
    from torch.nn import Identity

    base = module.PreTrainedModel
    config = getattr(module, "PreTrainedConfig", None) or module.PretrainedConfig

    class WithoutEmbeddings(base):  # type: ignore[misc, valid-type]
        def get_input_embeddings(self) -> Any:
            raise _NoEmbeddingsError("this part has no input embeddings")

    class WithEmbeddings(base):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            super().__init__(config())
            self.embeddings = Identity()
            self.vision = WithoutEmbeddings(config())

        def get_input_embeddings(self) -> Any:
            return self.embeddings

    return WithEmbeddings()


PATCH = Patch(
    module=__name__,
    title="enable_input_require_grads raises on models with a vision tower",
    severity="crash",
    symptoms=("@ enable_input_require_grads @ get_input_embeddings",),
    targets=("transformers.modeling_utils",),
    affects=("transformers>=5.0.0rc0,<5.0.0rc2",),
    links=(
        "https://github.com/huggingface/transformers/pull/42542",
        "https://github.com/huggingface/transformers/pull/42558",
    ),
    measures="hooks on a model's input embeddings, where one part has none (expected: 1)",
    probe=probe,
    repair=repair,
    canary=canary,
)
