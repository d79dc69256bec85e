"""What the patches of models that share K/V between layers have in common."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

from zoo_hooks.changes import Changes

TOLD = (
    "%s shares K/V between layers, for which reentrant checkpointing gives wrong gradients; it is "
    "checkpointed with use_reentrant=False. Memory is saved as before."
)


def attention_names(module: ModuleType) -> set[str]:
    """Names that the attention of a modeling module whose layers share K/V uses; none without one."""
    for name, kind in vars(module).items():
        if name.endswith("Attention") and isinstance(kind, type) and "forward" in vars(kind):
            code = inspect.unwrap(vars(kind)["forward"]).__code__
            if "is_kv_shared_layer" in code.co_names:
                return {*code.co_names, *code.co_varnames}
    return set()


def not_reentrant(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same checkpoint function with use_reentrant=False, where it takes that keyword."""
    parameters = inspect.signature(function).parameters
    named = parameters.get("use_reentrant")
    chosen = getattr(function, "keywords", {}).get("use_reentrant", named and named.default)
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    if chosen is False or not (named or takes_any):
        return function
    return functools.partial(function, use_reentrant=False)


def without_reentrant_checkpointing(changes: Changes) -> Callable[[Any], Callable[..., None]]:
    """Make ``_set_gradient_checkpointing`` non-reentrant for models that share K/V between layers."""

    def make(original: Callable[..., None]) -> Callable[..., None]:
        default = inspect.signature(original).parameters["gradient_checkpointing_func"].default

        def set_gradient_checkpointing(self: Any, enable: bool = True, *args: Any, **kwargs: Any) -> None:
            if enable and any(getattr(part, "is_kv_shared_layer", False) for part in self.modules()):
                chosen = args[0] if args else kwargs.pop("gradient_checkpointing_func", default)
                function = not_reentrant(chosen)
                if function is not chosen:
                    changes.tell(TOLD % type(self).__name__)
                args = (function, *args[1:])
            original(self, enable, *args, **kwargs)

        return set_gradient_checkpointing

    return make


def stays_reentrant(base: Any) -> bool:
    """Tell whether ``base``, a class of models, leaves a model that shares K/V a reentrant function."""

    def function(run: Any, *, use_reentrant: bool = True) -> None:
        """Stand in for torch's checkpoint function; never called."""

    layer = SimpleNamespace(is_kv_shared_layer=True, gradient_checkpointing=False)
    model = SimpleNamespace(modules=lambda: [layer])
    base._set_gradient_checkpointing(model, True, function)
    return layer._gradient_checkpointing_func is function
