"""Stand-ins for layers during one forward pass, for models whose last layers use the K/V of earlier ones."""

from __future__ import annotations

import copy
from types import CellType, FunctionType
from typing import Any

SHARED_KV = "shared_kv"
_EMPTY = CellType()


class Held:
    """Stands in for a cache in one call of a layer: provides K/V, or keeps the K/V that the layer makes."""

    offset = 0

    def __init__(self, state: Any = None) -> None:
        self.state = state

    def update_and_fetch(self, keys: Any, values: Any) -> Any:
        """Keep what a cache would have stored."""
        self.state = (keys, values)
        return self.state

    def keys_and_values(self) -> Any:
        """The same method as in mlx-lm's caches."""
        return self.state


class Unmoved:
    """A view of a cache with a fixed offset, such as the one from before the layer filled the cache."""

    def __init__(self, cache: Any, offset: Any) -> None:
        self._cache = cache
        self.offset = offset

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)

    @property
    def state(self) -> Any:
        """K and V only; the state of a batch's cache contains more than the layers unpack."""
        return self._cache.state[:2]

    @property  # type: ignore[misc]
    def __class__(self) -> Any:  # what upstreams ask of a cache with isinstance stays true
        return type(self._cache)


class Link:
    """Stands in for a layer that makes shared K/V (``source`` is its own index), or that uses them.

    The K/V are arguments and results of the layers' calls, because checkpointing differentiates only
    through those.
    """

    def __init__(self, layer: Any, index: int, source: int, passed: dict[int, Any]) -> None:
        self._layer = layer
        self._index = index
        self._source = source
        self._passed = passed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._layer, name)

    def __call__(self, x: Any, mask: Any = None, _: Any = None, *args: Any, **kwargs: Any) -> Any:
        if self._index != self._source:
            kwargs[SHARED_KV] = self._passed[self._source]
            return self._layer(x, mask, None, *args, **kwargs)
        kwargs[SHARED_KV] = None
        hidden, self._passed[self._index] = self._layer(x, mask, None, *args, **kwargs)
        return hidden


def linked(model: Any, layer_call: Any) -> Any:
    """A view of the model with linked layers; the model itself if its layers cannot be linked."""
    layers = getattr(model, "layers", None)
    first = getattr(model, "first_kv_shared_layer_idx", None)
    sources = getattr(model, "layer_idx_to_cache_idx", None)
    if not (isinstance(layers, list) and isinstance(sources, list) and isinstance(first, int)):
        return model
    previous = getattr(model, "previous_kvs", None)
    native = isinstance(previous, (list, tuple)) and len(previous) == len(layers)
    if native or not 0 < first < len(layers) == len(sources) or not sources_fit(sources, first):
        return model
    shared = {index: sources[index] for index in range(first, len(layers))}
    links = shared | {source: source for source in shared.values()}
    if not all(calls(kind, layer_call) for kind in {type(layers[index]) for index in links}):
        return model
    passed: dict[int, Any] = {}
    view = copy.copy(model)  # the model that users hold is never touched, so threads do not meet
    view.layers = [
        Link(layer, index, links[index], passed) if index in links else layer
        for index, layer in enumerate(layers)
    ]
    return view


def sources_fit(sources: list[Any], first: int) -> bool:
    """Tell whether each layer from ``first`` on uses the K/V of a layer before ``first``."""
    return all(isinstance(source, int) and 0 <= source < first for source in sources[first:])


def calls(kind: type, function: Any) -> bool:
    """Tell whether calling instances of a class calls this function, directly or through checkpointing.

    Checkpointing replaces a call by a function whose closure holds the previous one, perhaps repeatedly.
    """
    waiting, seen = [getattr(kind, "__call__", None)], set()  # noqa: B004 - which one
    while waiting:
        call = waiting.pop()
        if call is function:
            return True
        if isinstance(call, FunctionType) and call not in seen:
            seen.add(call)
            waiting += [cell.cell_contents for cell in call.__closure__ or () if cell != _EMPTY]
    return False
