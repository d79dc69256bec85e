"""Shared by the patches for optional packages that are installed but cannot be loaded.

Upstream code asks whether a package is available, and imports it in the next line. When such code asks, the
package is imported, and the error of a failed import is kept. When other code asks, nothing is imported, and
the answer is upstream's until an import has failed.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable
from inspect import unwrap
from pathlib import Path
from types import FrameType, FunctionType, ModuleType
from typing import Any, NamedTuple

from zoo_hooks.changes import Changes
from zoo_hooks.model import Verdict
from zoo_hooks.patches import _broken
from zoo_hooks.patches._calls import in_place_of, tried
from zoo_hooks.patches._loading import Package

GATE = "requires_backends"
"""What refuses with words of how to install a package, of those that it finds in a table of transformers."""
ASKING = re.compile(rb"\nif [^\n]*_available\([^\n]*((?:\n(?: [^\n]*|(?=\n)))+)")
"""A block at module level of what is done if a package is available."""


class Row(NamedTuple):
    """A package, and the functions by which one upstream asks whether it is available."""

    name: str
    """What is imported."""
    questions: tuple[str, ...]
    """Functions that say whether it is there, that which the others ask first."""
    flags: tuple[str, ...]
    """What the first of them asks, where it asks only whether it is installed."""
    home: str = ""
    """The file in which a release imports it at once if it has this bug, seen from two folders up."""
    through: tuple[str, ...] = ()
    """Modules of the upstream's own that import it at once, as who asks imports them."""
    loading: tuple[str, ...] = ()
    """Functions that ask for those who import it next."""
    beside: tuple[str, ...] = ()
    """Other packages that who asks imports too."""
    spared: tuple[str, ...] = ()
    """Modules and packages that get upstream's answer when they ask."""
    refusing: tuple[str, ...] = ()
    """Functions that ask for those who named it."""

    def spares(self, asker: FrameType) -> bool:
        """Tell whether the calling code gets upstream's answer."""
        name = asker.f_globals.get("__name__", "")
        return any(f"{name}.".startswith(f"{one}.") for one in self.spared)


def probe(module: ModuleType, *rows: Row) -> Verdict:
    """AFFECTED if one of upstream's functions only checks whether its package is installed."""
    verdicts = [_verdict(module, row) for row in rows]
    return next((one for one in (Verdict.AFFECTED, Verdict.UNKNOWN) if one in verdicts), Verdict.FIXED)


def _verdict(module: ModuleType, row: Row) -> Verdict:
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
    return _asks_and_imports(module.__spec__.loader.get_data, path, row.name)  # type: ignore[union-attr]


@functools.cache
def _asks_and_imports(read: Callable[[str], bytes], path: str, name: str) -> bool:
    imports = rb"\n +(?:from|import) " + name.encode() + rb"\b"
    return any(re.search(imports, block) for block in ASKING.findall(read(path)))


def repair(module: ModuleType, changes: Changes, *rows: Row) -> None:
    """Make a module's functions answer whether the packages can be loaded."""
    for row in rows:
        if _verdict(module, row) is Verdict.AFFECTED:
            _repair(module, changes, row)


def _repair(module: ModuleType, changes: Changes, row: Row) -> None:
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
    code = unwrap(original).__code__
    finds_out = package.name in code.co_names  # by importing it, though it may raise
    may_import = ("return_version",) in code.co_consts  # to learn its version

    def is_available(*args: Any, **kwargs: Any) -> Any:
        if not package.works and (finds_out or may_import or package.error):
            answer, error = tried(lambda: original(*args, **kwargs))
            if error and not (finds_out or package.error or package.raised(error)):
                raise error
            if error and package.error is None:
                package.breaks(error, changes)
            answer = error or answer  # False stays False
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
