"""Model classes that override a step of ``generate`` and look up ``past_key_values`` find no cache.

Symptom
-------
A model class may override a step of ``generate`` and look the cache up under its old name. Such a class
finds no cache in two places. One is ``model_kwargs["past_key_values"]`` in
``_update_model_kwargs_for_generation`` or ``_prepare_cache_for_generation``. The other is the dictionary
that ``super().prepare_inputs_for_generation(...)`` returns. Both lookups raise KeyError, or give None in
each step if they use ``get``. An overridden ``create_masks_for_generate`` raises ``TypeError: ... missing 1
required positional argument: 'past_key_values'``.

Cause
-----
From 5.24.0 on, ``generate`` keeps the cache under the name ``cache``, and passes it on under that name.

No upstream issue is known. docs/upstream-reports-torch.md contains a report.

Repair
------
The repair acts on each model class that overrides such a step. A step with a parameter ``past_key_values``
or ``cache_params`` accepts ``cache`` too. A step that looks up an old name in ``model_kwargs`` gets a
dictionary that finds the cache under all of its names, and lists it once, as ``cache``. If the step returns
a dictionary, the cache is in it under the new name. If an overridden ``prepare_inputs_for_generation``
looks up an old name, the base class's method returns such a dictionary too.

A step that declares ``**model_kwargs``, such as a custom ``_sample``, gets a plain dictionary from Python.
There zoo-hooks can only log a warning.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType, ModuleType
from typing import Any
from weakref import WeakSet

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches.transformers import _cache_name, _foreign

_PREPARE = "prepare_inputs_for_generation"
_switch = _cache_name.Switch()


def probe(module: ModuleType) -> Verdict:  # noqa: ARG001 - either of the two
    verdict = _foreign.handed_new_name()
    if verdict is not Verdict.AFFECTED:
        return verdict  # before 5.0 the other of the two may still be loading

    from transformers.modeling_utils import PreTrainedModel

    class Model(PreTrainedModel):  # type: ignore[misc]
        __no_type_check__ = True  # upstream need not look through its annotations

        def _prepare_cache_for_generation(self, _: Any, model_kwargs: dict[str, Any]) -> Any:
            return model_kwargs.get("past_key_values")

    given = object()
    found = _foreign.bare(Model)._prepare_cache_for_generation(None, {_cache_name.NEW: given})  # noqa: SLF001
    return Verdict.FIXED if found is given else Verdict.AFFECTED


def repair(module: ModuleType, changes: Changes) -> None:  # noqa: ARG001 - either of the two
    from transformers.generation.utils import GenerationMixin
    from transformers.modeling_utils import PreTrainedModel

    steps = {*vars(GenerationMixin), "create_masks_for_generate"} - {"generate"}
    seen: WeakSet[Any] = WeakSet([GenerationMixin, *PreTrainedModel.__mro__])

    def mind(model_class: Any) -> None:
        for place, owner in enumerate(model_class.__mro__):
            if owner not in seen:
                seen.add(owner)
                for name in steps & vars(owner).keys():
                    _mind_step(owner, name, model_class.__mro__[place + 1 :], changes)

    changes.replace(_switch, "on", value=True)
    _foreign.every_subclass(PreTrainedModel, mind, changes)


def _mind_step(owner: Any, name: str, below: tuple[Any, ...], changes: Changes) -> None:
    raw = vars(owner)[name]
    kind = type(raw) if isinstance(raw, (staticmethod, classmethod)) else None
    function = raw.__func__ if kind else raw
    if not isinstance(function, FunctionType) or hasattr(function, "zoo_hooks_switch"):
        return
    looks = _cache_name.looks_up_old(function)
    if looks and name == _PREPARE:
        _answer(below, changes)
    if _cache_name.is_old(function) or (looks and name == _PREPARE):
        made = _cache_name.accepting(function, _switch)
    elif looks and "model_kwargs" in _cache_name.parameters(function):
        made = _cache_name.lending(function, _switch)
    else:
        if _cache_name.finds_old(function):
            changes.tell(
                f"{owner.__qualname__}.{name} looks past_key_values up among its arguments, where this"
                " transformers hands it cache: write model_kwargs.get('cache')"
            )
        return
    setattr(owner, name, kind(made) if kind else made)


def _answer(below: tuple[Any, ...], changes: Changes) -> None:
    for base in below:
        function = vars(base).get(_PREPARE)
        if function and _cache_name.taken(function) == _cache_name.NEW:  # the first of transformers' own
            if not hasattr(function, "zoo_hooks_switch"):
                changes.wrap(base, _PREPARE, _answering)
            return


def _answering(original: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    def prepare(*args: Any, **kwargs: Any) -> dict[str, Any]:
        if _cache_name.NEW not in kwargs:  # upstream would warn of the name by which the hook was handed it
            _cache_name.renamed(kwargs)
        return _cache_name.AnyName(original(*args, **kwargs))

    prepare.zoo_hooks_switch = _switch  # type: ignore[attr-defined]
    return prepare


def canary() -> Figure:
    from transformers.models.llama.modeling_llama import LlamaForCausalLM  # ImportError names torch

    class Looking(LlamaForCausalLM):  # type: ignore[misc]
        seen = 0

        def _update_model_kwargs_for_generation(
            self, outputs: Any, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
        ) -> dict[str, Any]:
            found: dict[str, Any] = super()._update_model_kwargs_for_generation(
                outputs, model_kwargs, *args, **kwargs
            )
            self.seen += found.get("past_key_values") is not None
            return found

    model = _foreign.llama(Looking)
    return _foreign.figure(_foreign.wrong(model) + 8 - model.seen)


PATCH = Patch(
    module=__name__,
    title="Model classes that override a step of generate and look up past_key_values find no cache",
    severity="silent wrong result",
    symptoms=(
        "missing 1 required positional argument: 'past_key_values' @ transformers.generation.utils",
        "KeyError: 'past_key_values' @ transformers.generation.utils",
    ),
    targets=("transformers.generation.utils", "transformers.modeling_utils"),
    requires=("transformers.generation.utils", "transformers.modeling_utils"),
    affects=("transformers>=5.24.0",),
    links=(
        "https://github.com/huggingface/transformers/blob/v5.24.0/src/transformers/generation/utils.py#L1257-L1259",
    ),
    measures="steps of 8 in which an override finds no cache, plus wrong tokens (expected: 0)",
    probe=probe,
    repair=repair,
    canary=canary,
)
