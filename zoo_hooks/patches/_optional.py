"""Shared by the patches for optional packages that are installed but cannot be loaded.

Upstream code asks whether a package is available, and imports it in the next line. When such code asks, the
package is imported, and the error of a failed import is kept. When other code asks, nothing is imported, and
the answer is upstream's until an import has failed.
"""

from __future__ import annotations

import dis
import re
import sys
from collections.abc import Callable, Iterable
from inspect import unwrap
from pathlib import Path
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any, ClassVar, NamedTuple

from zoo_hooks.changes import Changes
from zoo_hooks.model import Verdict
from zoo_hooks.patches import _broken
from zoo_hooks.patches._calls import in_place_of, tried

GATE = "requires_backends"
"""What refuses with words of how to install a package, of those that it finds in a table of transformers."""


class Row(NamedTuple):
    """A package, and the functions by which one upstream asks whether it is available."""

    name: str
    """What is imported."""
    questions: tuple[str, ...]
    """Functions that say whether it is there, that which the others ask first."""
    flags: tuple[str, ...]
    """What the first of them asks, where it asks only whether it is installed."""
    home: str = ""
    """The file in which a release imports it at once if it has this bug, below its package's folder."""
    through: tuple[str, ...] = ()
    """Modules of the upstream's own that import it at once, as who asks imports them."""
    loading: tuple[str, ...] = ()
    """Functions that ask for those who import it next."""


class Package:
    """What is known of an installed package: nothing yet, that it works, or the error of its import."""

    known: ClassVar[dict[str, Package]] = {}

    def __init__(self, name: str) -> None:
        self.name = name
        self.works = False
        self.error: Exception | None = None

    def told(self, asker: FrameType, row: Row, changes: Changes) -> bool:
        """Answer the calling code; if it would say how to install the package, raise the package's error."""
        if self.works:
            return True
        named = self.is_named_by(asker.f_code)
        if self.error is None:
            wanted, names = self.next_import(asker, row) or (self.name if named else "", ())
            if wanted:
                self.load(wanted, names, changes)
        if named:
            self.fail()
        return self.error is None

    def load(self, wanted: str, names: Iterable[str], changes: Changes) -> None:
        """Import what the calling code is about to import. A module that the release lacks is no failure."""
        before = set(sys.modules)
        _, error = tried(lambda: take(wanted, names))
        elsewhere = isinstance(error, ModuleNotFoundError) and self.holds(error.name or "")
        self.works = error is None
        if error and not elsewhere:
            self.breaks(error, changes)
            for name in set(sys.modules) - before:  # half there, it passes for imported
                if self.holds(name):
                    del sys.modules[name]

    def breaks(self, error: Exception, changes: Changes) -> None:
        """Keep the error of its import, and log a warning."""
        self.error = error.with_traceback(None)
        _broken.tell(changes, self.name, error)

    def fail(self) -> None:
        """Raise the error of its import. A second import would say that it is partially initialized."""
        if self.error:
            raise self.error.with_traceback(None)

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


def probe(module: ModuleType, row: Row) -> Verdict:
    """AFFECTED if upstream's function only checks whether the package is installed."""
    asks = getattr(module, row.questions[0], None)
    if asks is None or is_ours(asks):
        return Verdict.FIXED
    function = unwrap(asks)
    if not isinstance(function, FunctionType):
        return Verdict.UNKNOWN
    if set(row.flags).isdisjoint(function.__code__.co_names):
        return _broken.passing(function)
    return Verdict.AFFECTED if imports_at_once(module, row) else Verdict.FIXED


def imports_at_once(module: ModuleType, row: Row) -> bool:
    """Tell whether a file of the release asks at module level and then imports the package."""
    if not row.home or module.__spec__ is None or module.__file__ is None:
        return True
    path = str(Path(module.__file__).parents[1] / row.home)
    source: bytes = module.__spec__.loader.get_data(path)  # type: ignore[union-attr]
    block = rb"^if [^\n]*_available\([^\n]*\n(?:(?: +[^\n]*)?\n)*? +(?:from|import) "
    return re.search(block + row.name.encode() + rb"\b", source, re.MULTILINE) is not None


def repair(module: ModuleType, changes: Changes, row: Row) -> None:
    """Make a module's functions answer whether the package can be loaded."""
    package = Package.known.setdefault(row.name, Package(row.name))
    parent = sys.modules[module.__name__.rpartition(".")[0]]
    table = getattr(module, "BACKENDS_MAPPING", {})
    for question in row.questions:
        if original := getattr(module, question, None):
            asks = asking(original, package, row, changes)
            changes.replace(module, question, asks)
            if hasattr(parent, question):  # copied, so we have come late
                changes.rebind(original, asks)
            for backend, (available, words) in list(table.items()):
                if available is original:
                    changes.replace(table, backend, (by_table(original, package), words))


def asking(original: Callable[..., Any], package: Package, row: Row, changes: Changes) -> Any:
    """The replacement of upstream's function, which asks it and then the package."""
    finds_out = package.name in unwrap(original).__code__.co_names  # by importing it, though it may raise

    def is_available(*args: Any, **kwargs: Any) -> Any:
        if finds_out and not package.works and package.error is None:
            answer, error = tried(lambda: original(*args, **kwargs))
            if error:
                package.breaks(error, changes)
        else:
            answer = original(*args, **kwargs)
        return answer and package.told(sys._getframe(1), row, changes)  # noqa: SLF001

    passing = in_place_of(original, is_available)
    passing._dynamo_marked_constant = True  # noqa: SLF001 - torch.compile asks it, as upstream's newer ones
    return passing


def by_table(original: Callable[..., Any], package: Package) -> Callable[..., Any]:
    """The replacement in the table of backends: raises for ``requires_backends``, else asks upstream's."""

    def is_available() -> Any:
        asker = sys._getframe(1)  # noqa: SLF001
        if GATE in (asker.f_code.co_name, asker.f_back and asker.f_back.f_code.co_name):
            package.fail()
        return original()

    return in_place_of(original, is_available)  # type: ignore[no-any-return]


def is_ours(asks: Any) -> bool:
    """Tell whether a function is what ``asking`` has made."""
    return getattr(asks, "__globals__", None) is globals()
