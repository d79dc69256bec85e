"""What repairs may do to an upstream, each undone exactly."""

from __future__ import annotations

import functools
import inspect
import logging
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, cast
from weakref import WeakValueDictionary

ABSENT: Any = object()
_log = logging.getLogger("zoo_hooks")
_told: set[str] = set()


class CannotRevert(RuntimeError):
    """A change has been changed again by somebody else, so nothing was undone."""


class _Place:
    """A name of an owner, and what patches have made of it, one over the other."""

    def __init__(self, owner: Any, name: str) -> None:
        self.owner, self.name = owner, name
        self.base = self.written = _read(owner, name)
        self.found = inspect.getattr_static(owner, name, ABSENT)  # not bound, and also if inherited
        self.layers: WeakValueDictionary[int, _Layer] = WeakValueDictionary()

    def __str__(self) -> str:
        if self.owner is sys.modules:
            return f"sys.modules.{self.name}"
        return f"{getattr(self.owner, '__name__', type(self.owner).__name__)}.{self.name}"

    @property
    def untouched(self) -> bool:
        return _read(self.owner, self.name) is self.written

    def write(self, value: Any) -> None:
        _write(self.owner, self.name, value)
        self.written = value


class _Layer:
    """What one repair makes of a place, for each thing that it has found below."""

    def __init__(self, place: _Place, make: Callable[[Any], Any] | None) -> None:
        self.place, self.make = place, make
        self.on = True
        self.made: list[tuple[Any, Any]] = []

    def over(self, below: Any) -> Any:
        for known, value in self.made:
            if known is below:
                return value
        if self.make is None:
            raise CannotRevert(f"{self.place} has since been changed by another patch; nothing was changed")
        self.made.append((below, self.make(self.place.found if below is ABSENT else below)))
        return self.made[-1][1]


_places: WeakValueDictionary[tuple[int, str], _Place] = WeakValueDictionary()


def _place(owner: Any, name: str) -> _Place:
    place = _places.get((id(owner), name))
    if place is None or not place.untouched:  # what other code has put there is where we start
        place = _places[id(owner), name] = _Place(owner, name)
    return place


class Changes:
    """The changes of one repair, in the order in which they were made."""

    def __init__(self) -> None:
        self._made: list[_Layer] = []

    def __bool__(self) -> bool:
        return bool(self._made)

    def replace(self, owner: Any, name: str, value: Any) -> None:
        """Set an attribute of a module or class; what it had itself, or had not, comes back."""
        layer = _Layer(_place(owner, name), None)
        layer.made.append((layer.place.written, value))
        self._put(layer)

    def wrap(self, owner: Any, name: str, make: Callable[[Any], Callable[..., Any]]) -> None:
        """Replace a function, or what a method of any kind calls, by ``make(function)``.

        The wrapper is a plain function that carries the name, docstring and signature of the
        original. Of a property its getter is wrapped. AttributeError if there is no such name.
        """
        inspect.getattr_static(owner, name)  # AttributeError
        self._put(_Layer(_place(owner, name), functools.partial(_wrapped, make)))

    def rebind(self, old: object, new: object) -> None:
        """Replace ``old`` under every name of every module that has copied it."""
        for module in list(sys.modules.values()):
            if isinstance(module, ModuleType):
                for name, value in list(vars(module).items()):
                    if value is old:
                        self.replace(module, name, new)

    def provide(self, name: str, module: ModuleType) -> None:
        """Let a module be imported that does not exist. Its parent must have been imported."""
        parent, _, child = name.rpartition(".")
        if parent:
            self.replace(sys.modules[parent], child, module)
        self.replace(sys.modules, name, module)

    def tell(self, message: str) -> None:
        """Warn once in a process: of what a repair drops or overrules, with the cause, as it does so."""
        if message not in _told:
            _told.add(message)
            _log.warning("zoo-hooks: %s", message)

    @property
    def in_place(self) -> bool:
        """True while everything is as the repair left it."""
        return all(layer.on and layer.place.untouched for layer in self._made)

    def undo(self) -> None:
        """Put everything back; CannotRevert, and no change, if something is no longer ours.

        What other patches have wrapped since is wrapped by them again, without this one below it.
        """
        self._turn(on=False)

    def redo(self) -> None:
        """Make the undone changes again, where they were; CannotRevert, and no change, if something moved."""
        self._turn(on=True)

    def _put(self, layer: _Layer) -> None:
        place = layer.place
        place.write(layer.over(place.written))
        place.layers[max(place.layers, default=0) + 1] = layer
        self._made.append(layer)

    def _turn(self, *, on: bool) -> None:
        values: dict[_Place, Any] = {}
        for place in dict.fromkeys(layer.place for layer in (self._made if on else reversed(self._made))):
            if not place.untouched:
                raise CannotRevert(f"{place} has since been changed by other code; nothing was changed")
            value = place.base
            for layer in place.layers.values():
                if on if layer in self._made else layer.on:
                    value = layer.over(value)
            values[place] = value
        for place, value in values.items():
            place.write(value)
        for layer in self._made:
            layer.on = on


def _wrapped(make: Callable[[Any], Callable[..., Any]], raw: Any) -> Any:
    if isinstance(raw, property) and raw.fget:
        getter = functools.wraps(raw.fget)(make(raw.fget))
        return property(getter, raw.fset, raw.fdel, raw.__doc__)
    kind = type(raw) if isinstance(raw, (staticmethod, classmethod)) else None
    function = raw.__func__ if kind else raw
    wrapper = functools.wraps(function)(make(function))
    return kind(wrapper) if kind else wrapper


def _read(owner: Any, name: str) -> Any:
    # The raw entry: getattr would bind a method, and find what is inherited.
    names = owner if isinstance(owner, dict) else vars(owner)
    return names.get(name, ABSENT)


def _write(owner: Any, name: str, value: Any) -> None:
    if isinstance(owner, dict):
        if value is ABSENT:
            cast("dict[str, Any]", owner).pop(name, None)
        else:
            owner[name] = value
    elif value is ABSENT and isinstance(owner, ModuleType):
        del vars(owner)[name]  # delattr of a lazily loading module recurses for ever on Python 3.13
    elif value is ABSENT:
        delattr(owner, name)
    else:
        setattr(owner, name, value)
