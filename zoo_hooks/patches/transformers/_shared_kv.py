"""What the patches of models that share K/V between layers have in common."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Verdict
from zoo_hooks.patches.transformers import _tiny

_BEFORE_CACHE = 3  # positional arguments of an attention's forward before past_key_values
FUNCTION = "_gradient_checkpointing_func"
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

        def set_gradient_checkpointing(self: Any, enable: Any = True, *args: Any, **kwargs: Any) -> None:  # noqa: FBT002
            if enable and any(getattr(part, "is_kv_shared_layer", False) for part in self.modules()):
                chosen = args[0] if args else kwargs.pop("gradient_checkpointing_func", default)
                function = not_reentrant(chosen)
                if function is not chosen and not isinstance(self, SimpleNamespace):  # as the probe hands in
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
    base._set_gradient_checkpointing(model, True, function)  # noqa: FBT003, SLF001
    return layer._gradient_checkpointing_func is function  # noqa: SLF001


class Carrier:
    """Takes shared K/V from layer to layer in one forward without a cache, and stores nothing else.

    To the attention it looks like a cache. Each forward has its own, and checkpointing, which takes
    caches away, keeps it for the recompute; so it lives as long as the graph does.
    """

    def __init__(self) -> None:
        self.shared_layers: dict[int, Any] = {}

    def update(self, key: Any, value: Any, *_: Any) -> tuple[Any, Any]:
        """Hand back what a cache would have stored."""
        return key, value


def no_cache_verdict(module: ModuleType) -> Verdict:
    """Tell whether layers share K/V through the cache, so that without one they cannot."""
    names = attention_names(module)
    if "shared_kv_states" in names:
        return Verdict.FIXED
    return Verdict.AFFECTED if "shared_layers" in names else Verdict.UNKNOWN


def share_without_cache(changes: Changes, text_model: Any, layer: Any, attention: Any, base: Any) -> None:
    """Repair of both no-cache patches; ``base`` is the class that all models of the family have.

    What switches checkpointing on for a model of another class that holds one of these is PreTrainedModel's,
    which gemma4-reentrant-checkpointing wraps: were it wrapped here too, neither patch could be reverted
    before the other. So the layers themselves see to it that their function is not reentrant.
    """
    changes.wrap(text_model, "forward", _with_carrier)
    changes.wrap(attention, "forward", _from_carrier)
    changes.wrap(base, "_set_gradient_checkpointing", without_reentrant_checkpointing(changes))
    changes.replace(layer, FUNCTION, _never_reentrant(changes))


def _never_reentrant(changes: Changes) -> property:
    def get(self: Any) -> Any:
        if FUNCTION not in self.__dict__:
            raise AttributeError(FUNCTION)  # as before it is set
        return self.__dict__[FUNCTION]

    def keep(self: Any, function: Callable[..., Any]) -> None:
        kept = not_reentrant(function) if self.config.num_kv_shared_layers else function
        if kept is not function and not self.gradient_checkpointing:
            changes.tell(TOLD % type(self).__name__)
        self.__dict__[FUNCTION] = kept

    return property(get, keep)


def _with_carrier(original: Callable[..., Any]) -> Callable[..., Any]:
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.config.num_kv_shared_layers:
            kwargs["shared_kv_carrier"] = Carrier()
        return original(self, *args, **kwargs)

    return forward


def _from_carrier(original: Callable[..., Any]) -> Callable[..., Any]:
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        carrier = kwargs.pop("shared_kv_carrier", None)
        if carrier is not None and len(args) <= _BEFORE_CACHE and kwargs.get("past_key_values") is None:
            kwargs["past_key_values"] = carrier
        return original(self, *args, **kwargs)

    return forward


def no_cache_difference(model: Any) -> float:
    """Canary of both no-cache patches: largest difference of logits without and with a cache."""
    import torch

    with torch.no_grad():
        cached, plain = (model(_tiny.prompt(), use_cache=use_cache).logits for use_cache in (True, False))
    return round(float((cached - plain).abs().max()), 6)
