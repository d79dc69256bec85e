"""What the patches of layers share that are packed to 4 bits and that a forward casts its input for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zoo_hooks.patches._calls import first_argument


def uncast(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    """A forward that casts nothing for the layer ``name`` where that is packed."""
    find = first_argument(original)

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not getattr(self, name).weight.dtype.is_floating_point:
            self = _Uncast(self, name, find(args, kwargs))
        return original(self, *args, **kwargs)

    return forward


class _Uncast:
    """A module one of whose layers is cast for as if it had a weight of the dtype of what is given.

    It is there while one forward runs, and only that forward sees it.
    """

    def __init__(self, module: Any, name: str, given: Any) -> None:
        self._module = module
        setattr(self, name, _Layer(getattr(module, name), given))

    def __getattr__(self, name: str) -> Any:
        if name == "_module":
            raise AttributeError(name)  # of one that is being copied
        return getattr(self._module, name)


class _Layer:
    def __init__(self, layer: Any, weight: Any) -> None:
        self._layer = layer
        self.weight = weight

    def __call__(self, given: Any) -> Any:
        return self._layer(given)
