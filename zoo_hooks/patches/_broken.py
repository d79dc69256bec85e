"""What the patches about packages that are installed but cannot be imported have in common."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Verdict
from zoo_hooks.patches._calls import in_place_of, tried


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
    return Verdict.FIXED if is_ours(asks) or not hasattr(asks, "__wrapped__") else Verdict.UNKNOWN


def is_ours(asks: Any) -> bool:
    """Tell whether a function is what ``asking`` has made."""
    return getattr(asks, "__globals__", None) is globals()


class Torchcodec:
    """Whether torchcodec, which is installed, can be loaded: found by loading it, once, when it is asked.

    So who asks is to be about to import it.
    """

    def __init__(self, changes: Changes) -> None:
        self.changes = changes
        self.works: bool | None = None

    def usable(self) -> bool:
        """Load it if nobody has; tell of the error if that fails."""
        if self.works is None:
            before = set(sys.modules)
            _, error = tried(lambda: import_module("torchcodec.decoders"))
            elsewhere = isinstance(error, ModuleNotFoundError) and error.name == "torchcodec.decoders"
            self.works = error is None or elsewhere  # one that has its decoders elsewhere is not broken
            if not self.works and error:
                tell(self.changes, "torchcodec", error)
                for name in set(sys.modules) - before:  # half there, it passes for imported
                    if name.partition(".")[0] == "torchcodec":
                        del sys.modules[name]
        return self.works


def package(name: str, version: str = "9.0.0", distribution: str = "") -> dict[str, str]:
    """The files of a broken package as pip leaves them."""
    metadata = f"{(distribution or name).replace('-', '_')}-{version}.dist-info"
    named = f"Metadata-Version: 2.1\nName: {distribution or name}\nVersion: {version}\n"
    return {
        f"{name}/__init__.py": f"raise ImportError('{name}: undefined symbol: _ZN3c10')",
        f"{metadata}/METADATA": named,
        f"{metadata}/top_level.txt": name,
    }


def packages(*names: str) -> dict[str, str]:
    """The files of several."""
    return {file: text for name in names for file, text in package(name).items()}


def with_broken(
    name: str,
    code: str,
    beside: dict[str, str] | None = None,
    version: str = "9.0.0",
    distribution: str = "",
) -> Figure:
    """What code gives beside a broken package, in a child, for upstreams remember what is there."""
    import_module("torch")  # where there is none, it is this interpreter that should say so
    files = package(name, version, distribution)
    with tempfile.TemporaryDirectory() as folder:
        for file, text in (files | (beside or {})).items():
            Path(folder, file).parent.mkdir(parents=True, exist_ok=True)
            Path(folder, file).write_text(text)
        start = f"import sys, zoo_hooks\nzoo_hooks.init()\nsys.path.insert(0, {folder!r})\n"
        run = subprocess.run(
            [sys.executable, "-c", start + code], capture_output=True, text=True, check=False
        )
    if run.returncode:
        return Figure(run.stderr.strip().splitlines()[-1], healthy=False, trace=run.stderr)
    return Figure("imported", healthy=True)
