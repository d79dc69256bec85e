"""A name of a module or class, and the layers that patches have put on it."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from types import CellType, ModuleType
from typing import Any, cast
from weakref import WeakValueDictionary

ABSENT: Any = object()
REACH = 100
"""How many functions are searched for a wrapper of ours below those of other code."""
_EMPTY = CellType()


class CannotRevert(RuntimeError):
    """Other code has changed the place of a repair since, so nothing was undone."""


class Place:
    """A name in an owner, with the layers that patches have put on it."""

    def __init__(self, owner: Any, name: str) -> None:
        self.owner, self.name = owner, name
        self.base = self.written = self.writing = _read(owner, name)
        self.found = self.base  # not bound, and also if inherited
        if self.base is ABSENT:
            self.found = inspect.getattr_static(owner, name, ABSENT)
        self.layers: WeakValueDictionary[int, Layer] = WeakValueDictionary()

    def __str__(self) -> str:
        if self.owner is sys.modules:
            return f"sys.modules.{self.name}"
        return f"{getattr(self.owner, '__name__', type(self.owner).__name__)}.{self.name}"

    @property
    def current(self) -> Any:
        """The current value, ABSENT if there is none."""
        return _read(self.owner, self.name)

    @property
    def untouched(self) -> bool:
        """True as long as only zoo-hooks has written there."""
        return any(self.current is ours for ours in (self.written, self.writing))

    def write(self, value: Any) -> None:
        """Write a value, or remove the name if the value is ABSENT."""
        self.writing = value  # ours too, wherever this is interrupted
        _write(self.owner, self.name, value)
        self.written = value


class Layer:
    """The value that one repair puts over each value that it found below."""

    def __init__(self, place: Place, make: Callable[[Any], Any] | None) -> None:
        self.place, self.make = place, make
        self.on = True
        self.made: list[tuple[Any, Any]] = []

    def over(self, below: Any) -> Any:
        """The value over a value below, the same each time; CannotRevert if there is none."""
        for known, value in self.made:
            if known is below:
                return value
        if self.make is None:
            raise CannotRevert(f"{self.place} has since been changed by another patch; nothing was changed")
        self.made.append((below, self.make(self.place.found if below is ABSENT else below)))
        return self.made[-1][1]


_places: WeakValueDictionary[tuple[int, str], Place] = WeakValueDictionary()


def place_of(owner: Any, name: str) -> Place:
    """The place of a name in an owner."""
    place = _places.get((id(owner), name))
    if place is None or not place.untouched:  # what other code has put there is where we start
        place = _places[id(owner), name] = Place(owner, name)
    return place


def leads_to(wrapper: Any, wanted: Any) -> bool:
    """Tell whether a function or descriptor wraps, binds or closes over another."""
    todo, seen = [wrapper], 0
    while todo and seen < REACH:
        seen += 1
        one = todo.pop()
        if one is wanted:
            return True
        held = [getattr(one, name, None) for name in ("__wrapped__", "__func__", "func", "fget")]
        cells = getattr(one, "__closure__", None) or ()
        todo += [value for value in held if value is not None]
        todo += [cell.cell_contents for cell in cells if cell != _EMPTY and callable(cell.cell_contents)]
    return False


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
