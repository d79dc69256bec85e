"""What is known of an optional package that is installed, and how it is found out: by loading it."""

from __future__ import annotations

import dis
import sys
from collections.abc import Iterable
from functools import partial
from traceback import walk_tb
from types import CodeType, FrameType
from typing import TYPE_CHECKING, ClassVar

from zoo_hooks.changes import Changes
from zoo_hooks.patches import _broken
from zoo_hooks.patches._calls import tried

if TYPE_CHECKING:
    from zoo_hooks.patches._optional import Row


class Package:
    """What is known of an installed package: nothing yet, that it works, or the error of its import."""

    known: ClassVar[dict[str, Package]] = {}

    def __init__(self, name: str) -> None:
        self.name = name
        self.works = False
        self.error: Exception | None = None

    def told(self, asker: FrameType, row: Row, changes: Changes) -> bool:
        """Answer the calling code; if it would say how to install the package, raise the package's error."""
        if self.works or row.spares(asker):
            return True
        named = asker.f_code.co_name in row.refusing or self.is_named_by(asker.f_code)
        if self.error is None:
            wanted, names = self.next_import(asker, row) or (self.name if named else "", ())
            if wanted:
                beside = set(row.beside) & set(asker.f_code.co_names)
                self.load(wanted, names, changes, beside)
        if named:
            self.fail()
        return self.error is None

    def load(self, wanted: str, names: Iterable[str], changes: Changes, beside: Iterable[str] = ()) -> None:
        """Import what the calling code is about to import. A module that the release lacks is no failure."""
        before, culprit = set(sys.modules), self.name
        _, error = tried(lambda: take(wanted, names))
        elsewhere = isinstance(error, ModuleNotFoundError) and self.holds(error.name or "")
        for other in beside:
            if error is None:
                culprit, (_, error) = other, tried(partial(take, other, ()))
        self.works = error is None
        if error and not elsewhere:
            self.breaks(error, changes, culprit)
            for name in set(sys.modules) - before:  # half there, it passes for imported
                if name.partition(".")[0] == culprit:
                    del sys.modules[name]

    def breaks(self, error: Exception, changes: Changes, culprit: str = "") -> None:
        """Keep the error of its import, and log a warning."""
        self.error = error.with_traceback(None)
        both = culprit and culprit != self.name
        _broken.tell(changes, f"{self.name} with {culprit}" if both else self.name, error)

    def fail(self) -> None:
        """Raise the error of its import. A second import would say that it is partially initialized."""
        if self.error:
            raise self.error.with_traceback(None)

    def raised(self, error: BaseException) -> bool:
        """Tell whether an error comes out of the package's own code."""
        frames = walk_tb(error.__traceback__)
        return any(self.holds(frame.f_globals.get("__name__", "")) for frame, _ in frames)

    def holds(self, module: str) -> bool:
        """Tell whether a module belongs to the package."""
        return module.partition(".")[0] == self.name

    def next_import(self, asker: FrameType, row: Row) -> tuple[str, tuple[str, ...]] | None:
        """The module of the package, and its names, that the calling code imports first after the call."""
        if asker.f_code.co_name in row.loading:
            return self.name, ()
        if not any(self.holds(name) or name in row.through for name in asker.f_code.co_names):
            return None
        steps = list(dis.get_instructions(asker.f_code))
        for level, names, step in zip(steps, steps[1:], steps[2:]):  # noqa: B905 - each shorter by one
            if step.opname == "IMPORT_NAME" and step.offset > asker.f_lasti:
                if level.argval == 0 and self.holds(step.argval):
                    return str(step.argval), names.argval or ()
                if step.argval in row.through:
                    return self.name, ()
        return None

    def is_named_by(self, code: CodeType) -> bool:
        """Tell whether a user named the package: the function has an install hint, or is __getattr__."""
        words = (one for one in code.co_consts if isinstance(one, str) and "install" in one)
        return code.co_name != "<module>" and (
            code.co_name == "__getattr__" or any(self.name in one.lower() for one in words)
        )


def take(wanted: str, names: Iterable[str]) -> None:
    """Import a module, or names from it."""
    module = __import__(wanted, fromlist=[*names])
    if missing := [name for name in names if name != "*" and not hasattr(module, name)]:
        raise ImportError(f"cannot import name {missing[0]!r} from {wanted!r} ({module.__file__})")
