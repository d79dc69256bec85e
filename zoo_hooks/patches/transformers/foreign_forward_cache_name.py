"""A third-party model that takes ``past_key_values`` generates without its KV cache.

Symptom
-------
The model is a subclass of a transformers model, or remote code that came with its checkpoint. Its
``forward`` has the parameters ``past_key_values=None`` and ``**kwargs``. Such a model gets no cache in
``generate``, and none as a part of one of transformers' own models. If it does not pass ``kwargs`` on, the
tokens after the first are wrong, without an error. If it passes them on, the tokens are correct, but what
the model itself computes from the cache is not.

Without ``**kwargs`` the model raises ``TypeError: ... unexpected keyword argument 'cache'``. If it also has
its own ``prepare_inputs_for_generation``, passing a cache to ``generate`` raises ``ValueError: The
following `model_kwargs` are not used by the model: ['cache']``.

Cause
-----
From 5.24.0 on transformers names the argument ``cache`` wherever it calls a model. A decorator lets its own
models accept the old name too. But transformers does not check which name a third-party model accepts.

No upstream issue is known. docs/upstream-reports-torch.md contains a report.

Repair
------
The repair wraps ``forward`` if it takes the cache only under an old name (``past_key_values`` or
``cache_params``). The wrapper also accepts ``cache`` and passes it on under the old name. The signature
does not change. New model classes are wrapped when they are created, existing ones at once.

A call that passes the cache under both names, or passes one of them by position, is left to upstream. The
classes keep the wrapper when the repair is undone, but it then does nothing. A ``forward`` that looks up
the cache in ``**kwargs`` is not changed, because upstream would warn about the old name in what the model
passes on. zoo-hooks logs one warning about such a model instead.
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
        __no_type_check__ = True  # upstream need not look through its annotations

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
    title="A third-party model that takes past_key_values generates without its KV cache",
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
    measures="wrong tokens that a third-party model generates, of 8 (expected: 0)",
    probe=probe,
    repair=repair,
    canary=canary,
)
