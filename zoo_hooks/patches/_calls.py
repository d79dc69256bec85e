"""What patches share that call upstream's functions, or stand in for them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

CACHE = ("cache_clear", "cache_info", "cache_parameters")


def tried(call: Callable[[], Any]) -> tuple[Any, Exception | None]:
    """What a call gives, and the error that it ends with instead, of whatever type."""
    result, kept = None, []

    def keep(_: Any, error: Any, __: Any) -> bool:
        kept.append(error)
        return isinstance(error, Exception)

    with ExitStack() as end:
        end.push(keep)
        result = call()
    return result, kept[0]


def first_argument(method: Callable[..., Any]) -> Callable[..., Any]:
    """What finds the first argument after ``self``: by position, or by the name that the signature has."""
    name = list(inspect.signature(method).parameters)[1]

    def find(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return args[0] if args else kwargs[name]

    return find


def in_place_of_torchs(**functions: Callable[..., Any]) -> Any:
    """A with-block in which functions of torch are replaced, by name.

    A probe replaces those that torch splits among threads. Once these threads have been started, every forked
    child that needs them waits for them for ever.
    """
    from torch import Tensor
    from torch.overrides import TorchFunctionMode

    class Mode(TorchFunctionMode):  # type: ignore[misc, unused-ignore]
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            for kind in types:
                if not issubclass(kind, Tensor):
                    with self:  # what it calls is replaced too
                        return kind.__torch_function__(function, types, args, kwargs)
            return functions.get(function.__name__, function)(*args, **kwargs or {})

    return Mode()


def attribute(name: str, read: Callable[[Any], Any]) -> property:
    """An attribute that lies in its object's dictionary as without us, and is read as ``read(value)``."""

    def own(self: Any) -> dict[str, Any]:
        if name not in self.__dict__:
            raise AttributeError(name)  # a torch module then looks elsewhere, as for any name
        return self.__dict__  # type: ignore[no-any-return]

    def get(self: Any) -> Any:
        return read(own(self)[name])

    def keep(self: Any, value: Any) -> None:
        self.__dict__[name] = value

    def drop(self: Any) -> None:
        del own(self)[name]

    return property(get, keep, drop)


def in_place_of(original: Any, answer: Callable[..., Any]) -> Any:
    """``answer`` as it passes for ``original``, which upstream may have made a cache."""
    passing = functools.wraps(original)(answer)
    for control in CACHE:
        if hasattr(original, control):
            setattr(passing, control, getattr(original, control))
    return passing
