"""What repairs may do to an upstream, each undone exactly."""

from __future__ import annotations

import functools
import inspect
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, cast

ABSENT: Any = object()
_log = logging.getLogger("zoo_hooks")


class CannotRevert(RuntimeError):
    """A change has been changed again by somebody else, so nothing was undone."""


@dataclass(eq=False, repr=False)
class _Change:
    """One attribute, or one entry of sys.modules, and what it was."""

    owner: Any
    name: str
    before: Any
    after: Any

    def __str__(self) -> str:
        if self.owner is sys.modules:
            return f"sys.modules.{self.name}"
        return f"{getattr(self.owner, '__name__', type(self.owner).__name__)}.{self.name}"


class Changes:
    """The changes of one repair, in the order in which they were made."""

    def __init__(self) -> None:
        self._made: list[_Change] = []
        self._told: set[str] = set()

    def __bool__(self) -> bool:
        return bool(self._made)

    def replace(self, owner: Any, name: str, value: Any) -> None:
        """Set an attribute of a module or class; what it had itself, or had not, comes back."""
        self._make(_Change(owner, name, _read(owner, name), value))

    def wrap(self, owner: Any, name: str, make: Callable[[Any], Callable[..., Any]]) -> None:
        """Replace a function, or what a method of any kind calls, by ``make(function)``.

        The wrapper is a plain function that carries the name, docstring and signature of the
        original. Of a property its getter is wrapped. AttributeError if there is no such name.
        """
        raw = inspect.getattr_static(owner, name)  # not bound, and found also if inherited
        if isinstance(raw, property) and raw.fget:
            getter = functools.wraps(raw.fget)(make(raw.fget))
            return self.replace(owner, name, property(getter, raw.fset, raw.fdel, raw.__doc__))
        kind = type(raw) if isinstance(raw, (staticmethod, classmethod)) else None
        function = raw.__func__ if kind else raw
        wrapper = functools.wraps(function)(make(function))
        return self.replace(owner, name, kind(wrapper) if kind else wrapper)

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
        self._make(_Change(sys.modules, name, _read(sys.modules, name), module))

    def tell(self, message: str) -> None:
        """Log once, at INFO: for repairs that overrule what a user chose, at the moment they do."""
        if message not in self._told:
            self._told.add(message)
            _log.info("zoo-hooks: %s", message)

    @property
    def in_place(self) -> bool:
        """True while everything is as the repair left it."""
        return all(_read(made.owner, made.name) is made.after for made in self._made)

    def undo(self) -> None:
        """Put everything back; CannotRevert, and no change, if something is no longer ours."""
        self._turn(list(reversed(self._made)), "after", "before")

    def redo(self) -> None:
        """Make the undone changes again; CannotRevert, and no change, if something has moved."""
        self._turn(self._made, "before", "after")

    def _make(self, change: _Change) -> None:
        _write(change.owner, change.name, change.after)
        for made in self._made:
            if made.owner is change.owner and made.name == change.name:
                made.after = change.after
                return
        self._made.append(change)

    def _turn(self, changes: list[_Change], now: str, then: str) -> None:
        for change in changes:
            if _read(change.owner, change.name) is not getattr(change, now):
                raise CannotRevert(f"{change} has since been changed by other code; nothing was changed")
        for change in changes:
            _write(change.owner, change.name, getattr(change, then))


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
