"""A model of others that takes ``past_key_values`` generates without its cache.

Symptom
-------
A subclass, or a model that came with its checkpoint, whose ``forward`` has ``past_key_values=None`` and
``**kwargs`` sees no cache in ``generate``, or as a part of a model of transformers'. If it does not hand
``kwargs`` on, the tokens after the first are wrong, without an error; if it does, they are right and what
it computes from the cache is not. Without ``**kwargs`` it raises ``TypeError: ... unexpected keyword
argument 'cache'``. If it has its own ``prepare_inputs_for_generation`` too, a cache that is given to
``generate`` raises ``ValueError: The following `model_kwargs` are not used by the model: ['cache']``.

Cause
-----
From 5.24.0 on transformers calls the argument ``cache`` in every place where it calls a model. Its own
models are decorated to take the old name too, but models that know no other are not asked what they take.

Repair
------
When a model class is made whose ``forward`` takes the cache only by an old name (``past_key_values`` or
``cache_params``), that function takes the new one too, and sees it by the old one; its signature stays.
So it is with classes that are there already. Who gives the cache by both names, or one of them by
position, is left to upstream. The classes keep the wrapper if the repair is undone, and it does nothing
then. A ``forward`` that looks the cache up in ``**kwargs`` gets a warning only, because what it passes on
would warn.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import FunctionType, ModuleType
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches.transformers import _cache_name, _foreign

_switch = _cache_name.Switch()


def probe(module: ModuleType) -> Verdict:  # noqa: ARG001 - either of the two
    verdict = _foreign.handed_new_name()
    if verdict is not Verdict.AFFECTED:
        return verdict  # before 5.0 the other of the two may still be loading

    from transformers.modeling_utils import PreTrainedModel

    class Model(PreTrainedModel):  # type: ignore[misc]
        def forward(self, past_key_values: Any = None, **_: Any) -> Any:
            return past_key_values

    given = object()
    return Verdict.FIXED if _foreign.bare(Model)(cache=given) is given else Verdict.AFFECTED


def repair(module: ModuleType, changes: Changes) -> None:  # noqa: ARG001 - either of the two
    from transformers.generation.utils import GenerationMixin
    from transformers.modeling_utils import PreTrainedModel

    changes.replace(_switch, "on", value=True)
    changes.wrap(GenerationMixin, "_validate_model_kwargs", _knowing)
    _foreign.every_subclass(PreTrainedModel, functools.partial(_mind, changes), changes)


def _mind(changes: Changes, model_class: Any) -> None:
    owner = next(kind for kind in model_class.__mro__ if "forward" in vars(kind))
    forward = vars(owner)["forward"]
    if not isinstance(forward, FunctionType):
        return
    if _cache_name.is_old(forward):
        owner.forward = _cache_name.accepting(forward, _switch)
    elif _cache_name.taken(forward) is None and _cache_name.finds_old(forward):
        changes.tell(
            f"{owner.__qualname__}.forward looks past_key_values up among its arguments, where this"
            " transformers hands it cache: write kwargs.get('cache')"
        )


def _knowing(original: Callable[..., None]) -> Callable[..., None]:
    def validate(self: Any, model_kwargs: dict[str, Any]) -> None:
        # Upstream asks the signatures, and those of others stay as they are.
        hooks = (self.forward, self.prepare_inputs_for_generation)
        if "cache" in model_kwargs and all(map(_cache_name.takes_new, hooks)):
            model_kwargs = {name: value for name, value in model_kwargs.items() if name != "cache"}
        original(self, model_kwargs)

    return validate


def canary() -> Figure:
    return _foreign.figure(_foreign.wrong(_foreign.llama(_foreign.dropping())))


PATCH = Patch(
    module=__name__,
    title="A model of others that takes past_key_values generates without its cache",
    severity="silent wrong result",
    symptoms=(
        "forward() got an unexpected keyword argument 'cache'",
        "The following `model_kwargs` are not used by the model: ['cache']",
    ),
    targets=("transformers.generation.utils", "transformers.modeling_utils"),
    requires=("transformers.generation.utils", "transformers.modeling_utils"),
    affects=("transformers>=5.24.0",),
    links=(
        "https://github.com/huggingface/transformers/blob/v5.24.0/src/transformers/generation/utils.py#L705-L706",
    ),
    measures="wrong tokens of eight that a model of others generates (expected: 0)",
    probe=probe,
    repair=repair,
    canary=canary,
)
