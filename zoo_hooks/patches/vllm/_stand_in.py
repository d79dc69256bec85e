"""A class that is called in the old way and makes objects of the new class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def stand_in(name: str, real: Any, make: Callable[..., Any]) -> Any:
    """A class whose call is ``make``; for isinstance, issubclass and all else it is ``real``.

    No object is ever its own, so pickles and encoders meet ``real`` only.
    """

    class Meta(type):
        def __call__(cls, *args: Any, **kwargs: Any) -> Any:
            return make(*args, **kwargs)

        def __instancecheck__(cls, instance: Any) -> bool:
            return isinstance(instance, real)

        def __subclasscheck__(cls, subclass: type) -> bool:
            return issubclass(subclass, real)

        def __getattr__(cls, attribute: str) -> Any:
            return getattr(real, attribute)

    return Meta(name, (), {"__module__": real.__module__, "__doc__": real.__doc__})
