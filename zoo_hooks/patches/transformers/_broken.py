"""What the patches about packages that are installed but cannot be imported have in common."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Verdict
from zoo_hooks.patches.transformers._calls import in_place_of, tried


def tell(changes: Changes, name: str, error: Exception | None) -> None:
    """Warn of a package that is done without: the error's type, and the first line of what it says."""
    said = str(error).strip().partition("\n")[0]
    changes.tell(
        f"{name} is installed but cannot be imported ({type(error).__name__}: {said}), so it counts as not "
        "installed; what needs it by name raises that error"
    )


def asking(changes: Changes, original: Any, name: str, usable: Callable[[], Any]) -> Any:
    """What passes for ``original``, the question whether a package is there: True only if it is usable."""

    def is_available() -> bool:
        works, error = tried(usable)
        if error is not None:
            tell(changes, name, error)
        return bool(works)

    return in_place_of(original, is_available)


def passing(asks: Any) -> Verdict:
    """Whether a function that asks otherwise than upstream's is somebody's repair; a decorator hides that."""
    ours = asks.__globals__ is globals()
    return Verdict.FIXED if ours or not hasattr(asks, "__wrapped__") else Verdict.UNKNOWN


def torchcodec() -> tuple[Verdict, Exception | None]:
    """Whether torchcodec, which is installed, cannot be loaded, and why. Imports it, and torch."""
    before = set(sys.modules)
    _, error = tried(lambda: import_module("torchcodec.decoders"))
    if error is None:
        return Verdict.FIXED, None
    for name in set(sys.modules) - before:  # others take one that is half there for one that is imported
        if name.partition(".")[0] == "torchcodec":
            del sys.modules[name]
    moved = isinstance(error, ModuleNotFoundError) and error.name == "torchcodec.decoders"
    return (Verdict.UNKNOWN if moved else Verdict.AFFECTED), error
