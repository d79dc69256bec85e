"""Third-party outputs with a field ``past_key_values`` raise an error or lose their KV cache.

Symptom
-------
A subclass of ``ModelOutput``, such as gliner's, defines its own field ``past_key_values``. Creating an
instance raises ``TypeError: __init__() got an unexpected keyword argument 'cache'``. If a subclass
redefines a field that it inherits (``class Output(CausalLMOutputWithPast)``), an instance can be created,
but the field is None. Code that continues from it computes everything again, without an error.

Cause
-----
From 5.24.0 on the metaclass of ``ModelOutput`` wraps the constructor of every subclass, including
third-party ones. The wrapper renames the arguments ``past_key_values`` and ``cache_params`` to ``cache``.
Reading and setting a value under an old name are redirected to ``cache`` as well.

Repair
------
When such a class is created, zoo-hooks makes its constructor accept the cache under the name of the field
and under ``cache``. The field keeps its name in ``keys()`` and ``fields()``. transformers looks it up as
``output.cache``, ``output["cache"]`` and ``"cache" in output``, and all three find it. A redefined field
takes the position of the inherited one, as before 5.24.0. A class that defines both names itself is left
alone.

Repaired classes stay repaired when the repair is undone. A class that was created before the repair is
repaired if it only has a field of its own. If it redefines an inherited field, a warning is logged instead.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import make_dataclass
from types import ModuleType
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches.transformers import _cache_name, _foreign, _tiny

NEW, OLD = _cache_name.NEW, _cache_name.OLD
_FIELDS = "__dataclass_fields__"


class _Quiet:
    """Keeps the probe's class out of torch's list of pytree nodes, and upstream from warning of a name."""

    def __init_subclass__(cls) -> None:
        pass

    def __post_init__(self) -> None:
        pass

    def _replace_old_cache_name(self, key: str) -> str:
        return key


def probe(module: ModuleType) -> Verdict:
    base = module.BaseModelOutputWithPast
    if NEW not in getattr(base, _FIELDS):
        return Verdict.FIXED if OLD[0] in getattr(base, _FIELDS) else Verdict.UNKNOWN
    more = {"__doc__": "As people write it."}  # or one is made, of the signature
    output, given = (
        make_dataclass(
            "Output", [(OLD[0], object, None)], bases=(_Quiet, base), namespace=more, repr=False, eq=False
        ),
        object(),
    )
    return Verdict.FIXED if output(**{NEW: given}).past_key_values is given else Verdict.AFFECTED


def repair(module: ModuleType, changes: Changes) -> None:
    base = module.ModelOutput
    changes.wrap(type(base), "__setattr__", _minding)
    for kind in _foreign.subclasses(base):
        if _old_field(kind, vars(kind).get(_FIELDS, {})) and not issubclass(kind, _Quiet):
            if NEW in vars(kind)[_FIELDS]:
                changes.tell(
                    f"{kind.__qualname__} was made before zoo-hooks was active, and loses what it is given as"
                    " past_key_values: make it again, or call the field cache"
                )
            else:
                _adopt(kind, kind.__init__.__wrapped__)


def _minding(original: Callable[..., None]) -> Callable[..., None]:
    def set_attribute(cls: Any, name: str, value: Any) -> None:
        # dataclass() sets the fields first, and makes the constructor of what this dict then holds
        if name == _FIELDS and NEW in value and (old := _old_field(cls, value)):
            order = {old if field == NEW else field: None for field in value}
            fields = {field: value[field] for field in order}
            value.clear()
            value.update(fields)
        if name == "__init__" and _old_field(cls, vars(cls).get(_FIELDS, {})):
            _adopt(cls, value)
        else:
            original(cls, name, value)

    return set_attribute


def _old_field(kind: Any, fields: dict[str, Any]) -> str | None:
    """The old name of a class's field, unless it has the new one beside it or nearer to itself."""
    old = next((name for name in OLD if name in fields), None)
    if old and NEW in fields and _origin(kind, old, fields) >= _origin(kind, NEW, fields):
        return None
    return old


def _origin(kind: Any, name: str, fields: dict[str, Any]) -> int:
    """How many steps above a class the one stands that declares a field; 0 is the class itself."""
    has = [i for i, base in enumerate(kind.__mro__) if vars(base).get(_FIELDS, {}).get(name) is fields[name]]
    return max(has, default=0)


def _adopt(kind: Any, init: Callable[..., None]) -> None:
    old: str = _old_field(kind, vars(kind)[_FIELDS])  # type: ignore[assignment]

    @functools.wraps(init)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807 - it is one
        if NEW in kwargs and old not in kwargs:
            kwargs[old] = kwargs.pop(NEW)
        init(self, *args, **kwargs)

    type.__setattr__(kind, "__init__", __init__)
    type.__setattr__(kind, "_replace_old_cache_name", lambda _, key: old if key == NEW else key)
    type.__setattr__(kind, NEW, property(lambda self: getattr(self, old)))


def canary() -> Figure:
    import torch
    from transformers.modeling_outputs import CausalLMOutputWithPast

    output_class = make_dataclass("Output", [(OLD[0], object, None)], bases=(CausalLMOutputWithPast,))
    model, cache, step = _foreign.llama(), None, _tiny.prompt()
    tokens = [step]
    for _ in range(8):
        seen = model(step, past_key_values=cache, use_cache=True)
        cache = output_class(past_key_values=seen.past_key_values).past_key_values
        step = seen.logits[:, -1:].argmax(-1)
        tokens.append(step)
    expected = _foreign.generate(model, use_cache=False)
    return _foreign.figure(int((torch.cat(tokens, 1) != expected).sum()))


PATCH = Patch(
    module=__name__,
    title="Third-party outputs with a field past_key_values raise an error or lose their KV cache",
    severity="crash",
    symptoms=("__init__() got an unexpected keyword argument 'cache' @ transformers.utils.generic",),
    targets=("transformers.modeling_outputs",),
    affects=("transformers>=5.24.0",),
    links=(
        "https://github.com/huggingface/transformers/blob/v5.24.0/src/transformers/utils/generic.py#L440-L471",
    ),
    measures="wrong tokens with the KV cache read from a third-party output, of 8 (expected: 0)",
    probe=probe,
    repair=repair,
    canary=canary,
)
