"""A class under an old name whose calls create objects of the new class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def stand_in(name: str, place: str, real: Any, make: Callable[..., Any]) -> Any:
    """Return a class whose calls run ``make``; isinstance, issubclass and attributes use ``real``.

    ``place`` is the module that holds the class under ``name``, where pickle finds it. The class has no
    instances, so pickles and encoders of objects only see ``real``.
    """

    class Meta(type):
        def __new__(cls, name: str, bases: tuple[type, ...], body: dict[str, Any]) -> Any:
            if bases:  # a subclass is one of the real class
                others = tuple(real if isinstance(base, Meta) else base for base in bases)
                return type(real)(name, others, body)
            return super().__new__(cls, name, bases, body)

        def __call__(cls, *args: Any, **kwargs: Any) -> Any:
            return make(*args, **kwargs)

        def __instancecheck__(cls, instance: Any) -> bool:
            return isinstance(instance, real)

        def __subclasscheck__(cls, subclass: type) -> bool:
            return issubclass(subclass, real)

        def __getattr__(cls, attribute: str) -> Any:
            return getattr(real, attribute)

        def __setattr__(cls, attribute: str, value: Any) -> None:
            setattr(real, attribute, value)

        def __delattr__(cls, attribute: str) -> None:
            delattr(real, attribute)

    return Meta(name, (), {"__module__": place, "__doc__": real.__doc__})
