"""Third-party code that uses an old name of the KV cache, which transformers now calls ``cache``."""

from __future__ import annotations

import dis
import functools
import inspect
from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any

NEW = "cache"
OLD = ("past_key_values", "cache_params")


class Switch:
    """On while a patch is in force. While it is off, its wrappers of third-party classes do nothing."""

    on = False


class AnyName(dict[str, Any]):
    """Arguments of a model, in which the cache can also be reached by its old names, and is listed once."""

    def __getitem__(self, key: str) -> Any:
        return super().__getitem__(_new(key))

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(_new(key), value)

    def __delitem__(self, key: str) -> None:
        super().__delitem__(_new(key))

    def __contains__(self, key: object) -> bool:
        return super().__contains__(_new(key))

    def get(self, key: str, *default: Any) -> Any:
        return super().get(_new(key), *default)

    def pop(self, key: str, *default: Any) -> Any:
        return super().pop(_new(key), *default)

    def setdefault(self, key: str, *default: Any) -> Any:
        return super().setdefault(_new(key), *default)

    def update(self, *given: Any, **more: Any) -> None:
        super().update(renamed(dict(*given, **more)))

    def __ior__(self, given: Any) -> Any:  # type: ignore[misc]
        self.update(given)
        return self

    def copy(self) -> AnyName:
        return AnyName(self)


def _new(key: Any) -> Any:
    return NEW if key in OLD else key


def renamed(arguments: dict[str, Any]) -> dict[str, Any]:
    """Put the cache under its new name. A value under an old name was set later, so it wins."""
    for old in OLD:
        if dict.__contains__(arguments, old):
            arguments[NEW] = arguments.pop(old)
    return arguments


def taken(function: Callable[..., Any]) -> str | None:
    """The name under which a function takes the cache, preferably the new one; None if it takes no cache."""
    known = parameters(function)
    return next((name for name in (NEW, *OLD) if name in known), None)


def is_old(function: Callable[..., Any]) -> bool:
    """Tell whether a function takes the cache only under an old name, and no patch makes it accept both."""
    return taken(function) in OLD and not hasattr(function, "zoo_hooks_switch")


def takes_new(function: Callable[..., Any]) -> bool:
    """Tell whether a function takes the cache under the new name, by itself or through a patch in force."""
    return taken(function) == NEW or getattr(function, "zoo_hooks_switch", Switch).on


def accepting(function: Callable[..., Any], switch: Switch) -> Callable[..., Any]:
    """Make a function accept the cache under its new name and see it under its old one.

    A call that passes the cache under both names, or passes one of them by position, is not changed.
    """
    old, known = taken(function) or OLD[0], parameters(function)
    place = known.index(old) if old in known else len(known)

    @functools.wraps(function)
    def renaming(*args: Any, **kwargs: Any) -> Any:
        if NEW in kwargs and switch.on and old not in kwargs and len(args) <= place:
            kwargs[old] = kwargs.pop(NEW)
        return function(*args, **kwargs)

    renaming.zoo_hooks_switch = switch  # type: ignore[attr-defined]
    return renaming


def lending(function: Callable[..., Any], switch: Switch) -> Callable[..., Any]:
    """Make a function see ``model_kwargs`` as an AnyName, and copy its changes back to the caller's dict."""
    place = parameters(function).index("model_kwargs")

    @functools.wraps(function)
    def lent(*args: Any, **kwargs: Any) -> Any:
        by_name = len(args) <= place
        given = kwargs.get("model_kwargs") if by_name else args[place]
        if not (switch.on and isinstance(given, dict)):
            return function(*args, **kwargs)
        shown = AnyName(given)
        if by_name:
            kwargs["model_kwargs"] = shown
        else:
            args = (*args[:place], shown, *args[place + 1 :])
        result = function(*args, **kwargs)
        given.clear()
        given.update(shown)
        if result is shown:
            return given
        return renamed(result) if isinstance(result, dict) else result

    lent.zoo_hooks_switch = switch  # type: ignore[attr-defined]
    return lent


def parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    """The names of a function's parameters, as in its signature, but without the cost of building one."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return code.co_varnames[: code.co_argcount + code.co_kwonlyargcount] if code else ()


def looks_up_old(function: Callable[..., Any]) -> bool:
    """Tell whether a function's code contains an old name as a string, and not the new one."""
    found = strings(inspect.unwrap(function))
    return NEW not in found and not found.isdisjoint(OLD)


def finds_old(function: Callable[..., Any]) -> bool:
    """Tell whether a function looks up an old name in its own ``**kwargs``, and not the new one.

    The string alone proves little, because outputs of models also have, and accept, such a name.
    """
    code = getattr(inspect.unwrap(function), "__code__", None)
    if code is None or not code.co_flags & inspect.CO_VARKEYWORDS or not looks_up_old(function):
        return False
    place = code.co_argcount + code.co_kwonlyargcount + bool(code.co_flags & inspect.CO_VARARGS)
    return _finds(code, code.co_varnames[place])


def _finds(code: CodeType, given: str) -> bool:
    steps = [*dis.get_instructions(code)]
    for place, step in enumerate(steps):
        # given.get("name"), given["name"], "name" in given; but not given["name"] = value
        if step.argval in OLD and steps[place + 1].opname != "STORE_SUBSCR":
            near = steps[max(place - 2, 0) : place + 2]
            names = [one.argval if isinstance(one.argval, tuple) else (one.argval,) for one in near]
            if any(given in each for each in names):
                return True
    return any(_finds(inner, given) for inner in code.co_consts if isinstance(inner, CodeType))


def strings(function: Callable[..., Any]) -> set[str]:
    """The strings in a function's own code, without those of a function that it wraps."""
    code = getattr(function, "__code__", None)
    return set(_strings(code)) if code else set()


def _strings(code: CodeType) -> Iterator[str]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _strings(constant)
        elif isinstance(constant, (tuple, frozenset)):
            yield from (one for one in constant if isinstance(one, str))
        elif isinstance(constant, str):
            yield constant
