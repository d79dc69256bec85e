"""The changes that repairs may make to an upstream; each can be undone exactly."""

from __future__ import annotations

import functools
import sys
import traceback
from collections.abc import Callable, Iterator
from itertools import compress, repeat
from operator import is_, is_not
from types import ModuleType
from typing import Any

from zoo_hooks import notices
from zoo_hooks.layers import ABSENT, CannotRevert, Layer, Place, leads_to, place_of
from zoo_hooks.safety import pass_on

_MANY_NAMES = """
filelock httpcore httpx huggingface_hub jinja2 mpmath numpy pandas psutil pyarrow pygments regex rich scipy
sklearn sympy torch yaml
"""
STRANGERS = frozenset({*sys.stdlib_module_names, *_MANY_NAMES.split()}) - {"__main__"}
"""Packages that are skipped: they have many names and import none of the functions that are rebound."""


class Changes:
    """The changes of one repair, in the order in which they were made."""

    def __init__(self) -> None:
        self._made: list[Layer] = []

    def __bool__(self) -> bool:
        return bool(self._made)

    def replace(self, owner: Any, name: str, value: Any) -> None:
        """Set an attribute of a module or class. Undoing restores its own previous value, or removes it."""
        layer = Layer(place_of(owner, name), None)
        layer.made.append((layer.place.written, value))
        self._put(layer)

    def wrap(self, owner: Any, name: str, make: Callable[[Any], Callable[..., Any]]) -> None:
        """Replace a function, or the function of a method of any kind, by ``make(function)``.

        The wrapper is a plain function with the name, docstring and signature of the original. For a
        property the getter is wrapped. Raises AttributeError if there is no such name.
        """
        place = place_of(owner, name)
        if place.found is ABSENT:
            raise AttributeError(f"{place} does not exist")
        self._put(Layer(place, functools.partial(_wrapped, make)))

    def rebind(self, old: object, new: object) -> None:
        """Replace ``old`` under every name of every module that has copied it, except in STRANGERS."""
        for module in _later_than(getattr(old, "__module__", "")):
            if any(map(is_, list(vars(module).values()), repeat(old))):  # first, for hardly any has a copy
                for name in [name for name, value in vars(module).items() if value is old]:
                    self.replace(module, name, new)

    def provide(self, name: str, module: ModuleType) -> None:
        """Make a module importable that does not exist. Its parent must have been imported."""
        parent, _, child = name.rpartition(".")
        if parent:
            self.replace(sys.modules[parent], child, module)
        self.replace(sys.modules, name, module)

    def tell(self, message: str) -> None:
        """Log a warning once in a process: what a repair drops or overrides, and why."""
        notices.say(notices.WARNING, f"zoo-hooks: {message}")

    @property
    def in_place(self) -> bool:
        """True as long as everything is as the repair left it."""
        return all(layer.on and layer.place.untouched for layer in self._made)

    @property
    def within_reach(self) -> bool:
        """True as long as each place holds the repair, or something that wraps it."""
        return all(layer.on and leads_to(layer.place.current, layer.place.written) for layer in self._made)

    def undo(self, *, partly: bool = False) -> None:
        """Undo all changes. Raise CannotRevert, and change nothing, if other code has changed a place since.

        With ``partly`` such places are left alone and forgotten. If other patches have wrapped the same
        function since, their wrappers are applied again, without this repair below them.
        """
        if partly:
            self._made = [layer for layer in self._made if layer.place.untouched]
        self._turn(on=False)

    def roll_back(self) -> str:
        """Undo, even if interrupted. Returns what cannot be undone, and raises exceptions from outside."""
        errors: list[BaseException] = []
        while len(errors) < 2:  # noqa: PLR2004 - the second try ends what an interrupted one has begun
            try:
                self.undo()
                break
            except BaseException as error:  # passed on below
                errors.append(error)
        for one in errors:
            pass_on(one)
        return f"; not rolled back: {errors[-1]}" if len(errors) > 1 else ""

    def redo(self) -> None:
        """Make the undone changes again. Raise CannotRevert, and change nothing, if a place has changed."""
        self._turn(on=True)

    def _put(self, layer: Layer) -> None:
        place = layer.place
        below = place.written
        self._made.append(layer)  # first, so that it is undone wherever what follows is interrupted
        place.layers[max(place.layers, default=0) + 1] = layer
        place.write(layer.over(below))

    def _turn(self, *, on: bool) -> None:
        values: dict[Place, Any] = {}
        for place in dict.fromkeys(layer.place for layer in (self._made if on else reversed(self._made))):
            if not place.untouched:
                raise CannotRevert(f"{place} has since been changed by other code; nothing was changed")
            value = place.base
            for layer in place.layers.values():
                if on if layer in self._made else layer.on:
                    value = layer.over(value)
            values[place] = value
        for place, value in values.items():
            if value is not place.current:
                place.write(value)
        for layer in self._made:
            layer.on = on


def _later_than(home: str) -> Iterator[ModuleType]:
    """Modules that may have copied a name of ``home``: those imported after it, half imported or lazy."""
    # Not of items(): thousands of new pairs would start the garbage collector.
    names = list(sys.modules)
    start = names.index(home) if home in names else 0
    bodies = (frame for frame, _ in traceback.walk_stack(None) if frame.f_code.co_name == "<module>")
    called = (frame.f_globals.get("__name__") for frame in bodies)
    running = {name for name in called if isinstance(name, str)}
    kinds = map(type, map(sys.modules.get, names[:start]))
    lazy = compress(names, map(is_not, kinds, repeat(ModuleType)))
    for name in [*running.intersection(names), *lazy, *names[start:]]:
        module = sys.modules.get(name)
        if isinstance(module, ModuleType) and name.partition(".")[0] not in STRANGERS:
            yield module


def _wrapped(make: Callable[[Any], Callable[..., Any]], raw: Any) -> Any:
    if isinstance(raw, property) and raw.fget:
        getter = functools.wraps(raw.fget)(make(raw.fget))
        return property(getter, raw.fset, raw.fdel, raw.__doc__)
    kind = type(raw) if isinstance(raw, (staticmethod, classmethod)) else None
    function = raw.__func__ if kind else raw
    wrapper = functools.wraps(function)(make(function))
    return kind(wrapper) if kind else wrapper
