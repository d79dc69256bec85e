"""Start-up: the instructions that a ``.pth`` file adds to ``python -c pass``, counted by callgrind.

Counted in an empty virtual environment with and without the file, in a clean shell environment.
The figure is repeatable almost to the instruction. In a virtual environment Python 3.10 - 3.13 run
every line of a ``.pth`` file twice; that is part of the figure, since it is where packages live.
So is a run of the garbage collector, 0.2 M on 3.11, where a start allocates enough to cause one.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from table import Table

ROOT = Path(__file__).resolve().parents[1]
CLEAN = {"PATH": os.environ["PATH"], "PYTHONHASHSEED": "0"}
GOALS = {(3, 10): 2_700_000, (3, 11): 1_200_000, (3, 12): 2_700_000, (3, 13): 2_700_000}
MODULE = '''"""Ten lines."""

import sys

STATE = []


def init():
    """Do next to nothing."""
    STATE.append(sys.version_info)
'''


@dataclass
class Count:
    """What one start of Python took."""

    instructions: int
    modules: int

    def __sub__(self, other: Count) -> Count:
        return Count(self.instructions - other.instructions, self.modules - other.modules)


class Site:
    """An empty virtual environment, into which one thing at a time is put."""

    def __init__(self, python: str, folder: Path) -> None:
        subprocess.run([python, "-m", "venv", "--without-pip", folder], check=True)
        self.python = str(folder / "bin" / "python")
        code = "import sys, sysconfig; print(sysconfig.get_path('purelib'), *sys.version_info[:2])"
        packages, major, minor = self._start("-I", "-c", code).stdout.rsplit(maxsplit=2)
        self.packages = Path(packages)
        self.version = (int(major), int(minor))
        self.bare = self._count()

    def added(self, put: Callable[[Path], None], *, cached: bool = True) -> Count:
        """What a start takes more when ``put`` has filled the folder of packages.

        Not cached means that no bytecode is kept, so each start compiles what it imports.
        """
        put(self.packages)
        try:
            if cached:
                self._start("-c", "pass")  # writes the bytecode
            return self._count() - self.bare
        finally:
            shutil.rmtree(self.packages)
            self.packages.mkdir()

    def _count(self) -> Count:
        plain = self._start("-B", "-c", "import sys; print(len(sys.modules))")
        if plain.stderr:
            raise RuntimeError(f"the start fails, so its count would say nothing:\n{plain.stderr}")
        return Count(instructions(self.python, "pass", CLEAN), int(plain.stdout))

    def _start(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.python, *arguments], env=CLEAN, capture_output=True, text=True, check=True
        )


def instructions(python: str, code: str, environment: Mapping[str, str]) -> int:
    """Instructions of a process that runs this code, with bytecode as it is; callgrind counts them."""
    command = ("valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", python, "-B", "-c", code)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found = re.search(r"Collected : (\d+)", done.stderr)
    if found is None:
        raise RuntimeError(f"callgrind counted nothing:\n{done.stderr}")
    return int(found[1])


@contextmanager
def site(python: str = sys.executable) -> Iterator[Site]:
    """A throwaway environment of this Python."""
    with tempfile.TemporaryDirectory() as folder:
        yield Site(python, Path(folder) / "site")


def put_comment(packages: Path) -> None:
    """Put a ``.pth`` file there that does nothing."""
    (packages / "empty.pth").write_text("# nothing\n")


def put_empty(packages: Path) -> None:
    """Put a package of ten lines there, and the ``.pth`` file that calls it."""
    (packages / "empty").mkdir()
    (packages / "empty" / "__init__.py").write_text(MODULE)
    (packages / "empty.pth").write_text("import empty; empty.init()\n")


def put_hooks(packages: Path, targets: int | None = None) -> None:
    """Put zoo-hooks there as its wheel would, or with this many made-up targets."""
    shutil.copytree(ROOT / "zoo_hooks", packages / "zoo_hooks", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("hooks.pth", "hooks.start"):
        shutil.copy(ROOT / name, packages / f"zoo_{name}")
    if targets is not None:
        module = packages / "zoo_hooks" / "__init__.py"
        module.write_text(_with_targets(module.read_text(), targets))


def _with_targets(source: str, number: int) -> str:
    statement = next(
        node
        for node in ast.parse(source).body
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and "TARGETS" in ast.unparse(node).split("=")[0]
    )
    names = (f"transformers.models.model_{n}.modeling_model_{n}" for n in range(number))
    entries = "".join(f"        ' {name} '\n" for name in names)
    lines = source.splitlines(keepends=True)
    lines[statement.lineno - 1 : statement.end_lineno] = (
        f"TARGETS = {{\n    'transformers': (\n{entries}    ),\n}}\n"
    )
    return "".join(lines)


def put_autowrapt(packages: Path, python: str) -> None:
    """Install autowrapt there; without its variable it has nothing to do."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([python, "-m", "venv", folder], check=True)
        pip = [f"{folder}/bin/python", "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
        subprocess.run([*pip, "--target", str(packages), "autowrapt"], check=True)


def table(python: str) -> Table:
    """Count all of them under one Python."""
    if shutil.which("valgrind") is None:
        return Table("Start-up", "valgrind is not installed")
    things: list[tuple[str, Callable[[Path], None], bool]] = [
        (".pth with one comment", put_comment, True),
        (".pth and a package of ten lines", put_empty, True),
        ("autowrapt, idle", partial(put_autowrapt, python=python), True),
        ("zoo-hooks", put_hooks, True),
        ("zoo-hooks, 20 targets", partial(put_hooks, targets=20), True),
        ("zoo-hooks, 1,000 targets", partial(put_hooks, targets=1000), True),
        ("package of ten lines, no bytecode cache", put_empty, False),
        ("zoo-hooks, no bytecode cache", put_hooks, False),
    ]
    with site(python) as environment:
        goal = GOALS.get(environment.version)
        rows = []
        for name, put, cached in things:
            try:
                more = environment.added(put, cached=cached)
            except subprocess.CalledProcessError as error:
                rows.append((f"{name}: could not be installed or run ({error.returncode})", None, None, None))
                continue
            limit = goal / 1e6 if goal and name == "zoo-hooks" else None
            rows.append((name, more.instructions / 1e6, limit, more.modules))
    return Table(
        f"Start-up, Python {'.'.join(map(str, environment.version))}",
        "Added to `python -c pass` in an empty virtual environment "
        f"({environment.bare.instructions / 1e6:.2f} M instructions, {environment.bare.modules} modules).",
        ("what", "+M instructions", "goal", "+modules"),
        rows,
    )
