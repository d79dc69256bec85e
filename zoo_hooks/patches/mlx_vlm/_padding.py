"""Padding masks, combined with the masks that the layers of a model have."""

from __future__ import annotations

import copy
from typing import Any


class Masked:
    """Stands in for a layer in one forward pass without a cache, and prevents attention to padding."""

    def __init__(self, layer: Any, padding: Any, made: dict[Any, Any]) -> None:
        self._layer = layer
        self._padding = padding
        self._made = made

    def __getattr__(self, name: str) -> Any:
        return getattr(self._layer, name)

    def __call__(self, x: Any, mask: Any = None, *args: Any, **kwargs: Any) -> Any:
        key = (mask if isinstance(mask, str) else id(mask), x.shape[1])
        if key not in self._made:  # once for all layers of a kind; the mask is kept, so its id is too
            self._made[key] = (mask, without_padding(mask, self._padding, x.shape[1]))
        return self._layer(x, self._made[key][1], *args, **kwargs)


def masked(model: Any, padding: Any) -> Any:
    """A view of a multimodal model whose layers do not attend to padding."""
    made: dict[Any, Any] = {}
    view, language = copy.copy(model), copy.copy(model.language_model)
    language.model = copy.copy(language.model)
    language.model.layers = [Masked(layer, padding, made) for layer in language.model.layers]
    view.language_model = language
    return view


def without_padding(mask: Any, padding: Any, queries: int) -> Any:
    """The mask of a layer for the last ``queries`` of all tokens, without the keys of padding.

    It does not depend on the values in ``padding``, so ``mx.compile`` can trace it. A token always attends
    to itself: a row without any key would give NaN.
    """
    import mlx.core as mx

    keys = mx.arange(padding.shape[1])
    rows = keys[-queries:, None]
    allowed = mask if isinstance(mask, mx.array) else keys <= rows
    return (allowed & (padding != 0)[:, None, None]) | (keys == rows)
