"""Shared by the patches of models whose layers share K/V."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Verdict
from zoo_hooks.patches.transformers import _tiny

CACHE = ("past_key_values", "cache")
"""Names that the argument for a cache has had."""
TOLD = (
    "%s shares K/V between layers, for which reentrant checkpointing gives wrong gradients; it is "
    "checkpointed with use_reentrant=False. Memory is saved as before."
)


def attention_names(module: ModuleType) -> set[str]:
    """Names that the attention of a modeling module uses if its layers share K/V; otherwise empty."""
    for name, kind in vars(module).items():
        if name.endswith("Attention") and isinstance(kind, type) and "forward" in vars(kind):
            forward = vars(kind)["forward"]
            names = inspect.unwrap(forward).__code__.co_names
            if "is_kv_shared_layer" in names:
                return {*names, *inspect.signature(forward).parameters}
    return set()


def not_reentrant(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same checkpoint function with use_reentrant=False, if it accepts that keyword."""
    parameters = inspect.signature(function).parameters
    named = parameters.get("use_reentrant")
    chosen = getattr(function, "keywords", {}).get("use_reentrant", named and named.default)
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    if chosen is False or not (named or takes_any):
        return function
    return functools.partial(function, use_reentrant=False)


def without_reentrant_checkpointing(
    changes: Changes, attention: type = object
) -> Callable[[Any], Callable[..., None]]:
    """Make ``_set_gradient_checkpointing`` non-reentrant for models that share K/V between layers.

    With ``attention``, this applies only to models whose layers use attention of that class.
    """

    def make(original: Callable[..., None]) -> Callable[..., None]:
        enabling, default = list(inspect.signature(original).parameters.values())[1:3]

        def set_gradient_checkpointing(self: Any, *args: Any, **kwargs: Any) -> None:
            def mended(value: Any) -> Any:
                function = not_reentrant(value) if callable(value) else value
                if function is not value and not isinstance(self, SimpleNamespace):  # as the probe hands in
                    changes.tell(TOLD % type(self).__name__)
                return function

            enable = args[0] if args else kwargs.get(enabling.name, enabling.default)
            if enable and any(
                isinstance(part, attention) and getattr(part, "is_kv_shared_layer", False)
                for part in self.modules()
            ):
                if not any(map(callable, (*args, *kwargs.values()))):
                    kwargs[default.name] = default.default
                args = tuple(map(mended, args))
                kwargs = {name: mended(value) for name, value in kwargs.items()}
            original(self, *args, **kwargs)

        return set_gradient_checkpointing

    return make


def stays_reentrant(base: Any) -> bool:
    """Tell whether a model class keeps a reentrant checkpoint function for a model that shares K/V."""

    def function(run: Any, *, use_reentrant: bool = True) -> None:
        """Stand in for torch's checkpoint function; never called."""

    layer = SimpleNamespace(is_kv_shared_layer=True, gradient_checkpointing=False)
    model = SimpleNamespace(modules=lambda: [layer])
    base._set_gradient_checkpointing(model, True, function)  # noqa: FBT003, SLF001
    return layer._gradient_checkpointing_func is function  # noqa: SLF001


class Carrier:
    """Passes shared K/V from layer to layer in one forward pass without a cache, and stores nothing else.

    The attention uses it like a cache. Each forward pass has its own carrier. Checkpointing removes a cache
    from the arguments of a layer, but keeps the carrier for the recomputation. The carrier therefore lives as
    long as the autograd graph.
    """

    def __init__(self) -> None:
        self.shared_layers: dict[int, Any] = {}

    def update(self, key: Any, value: Any, *_: Any) -> tuple[Any, Any]:
        """Return the K/V of this call, without storing them."""
        return key, value


def no_cache_verdict(module: ModuleType) -> Verdict:
    """Tell whether layers share K/V through the cache, so that they cannot share them without one."""
    names = attention_names(module)
    if "shared_kv_states" in names:
        return Verdict.FIXED
    return Verdict.AFFECTED if "shared_layers" in names and names.intersection(CACHE) else Verdict.UNKNOWN


def share_without_cache(changes: Changes, text_model: Any, attention: Any, base: Any) -> None:
    """Repair of both no-cache patches. ``base`` is PreTrainedModel, as any model may contain one of these."""
    changes.wrap(text_model, "forward", _with_carrier)
    changes.wrap(attention, "forward", _from_carrier)
    changes.wrap(base, "_set_gradient_checkpointing", without_reentrant_checkpointing(changes, attention))


def _with_carrier(original: Callable[..., Any]) -> Callable[..., Any]:
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.config.num_kv_shared_layers:
            kwargs["shared_kv_carrier"] = Carrier()
        return original(self, *args, **kwargs)

    return forward


def _from_carrier(original: Callable[..., Any]) -> Callable[..., Any]:
    names = list(inspect.signature(original).parameters)[2:]
    name = next(name for name in CACHE if name in names)
    place = names.index(name)

    def forward(self: Any, hidden_states: Any, *args: Any, **kwargs: Any) -> Any:
        carrier = kwargs.pop("shared_kv_carrier", None)
        given = name if name in kwargs else next((other for other in CACHE if other in kwargs), name)
        cache = args[place] if len(args) > place else kwargs.get(given)
        if cache is None and carrier is not None:
            cache = carrier
            if len(args) > place:
                args = (*args[:place], carrier, *args[place + 1 :])
            else:
                kwargs[given] = carrier
        output, *rest = original(self, hidden_states, *args, **kwargs)
        if cache is not None and self.is_kv_shared_layer and output.requires_grad:
            output = output + _of_no_tokens(self, hidden_states)
        return (output, *rest)

    return forward


def _of_no_tokens(attention: Any, hidden_states: Any) -> Any:
    """Zero, computed with the layer's own K/V projections, which a layer with shared K/V does not use.

    These projections still have parameters. With this zero each of them, and each parameter of an adapter on
    them, gets a gradient of zeros. Without a gradient plain DistributedDataParallel raises an error.
    """
    none = hidden_states[:, :0]
    key = attention.k_proj(none)
    value = key if attention.v_proj is None else attention.v_proj(none)
    heads = (-1, attention.head_dim)
    key, value = attention.k_norm(key.unflatten(-1, heads)), attention.v_norm(value.unflatten(-1, heads))
    return key.sum() + value.sum()


def no_cache_difference(model: Any) -> float:
    """Canary of both no-cache patches: largest difference between the logits with and without a cache."""
    import torch

    with torch.no_grad():
        cached, plain = (model(_tiny.prompt(), use_cache=use_cache).logits for use_cache in (True, False))
    return round(float((cached - plain).abs().max()), 6)
