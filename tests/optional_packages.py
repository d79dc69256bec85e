"""Packages that are installed and cannot be loaded, or can, as children find them."""

from __future__ import annotations

from pathlib import Path

from conftest import child, python

BEGIN = "import sys, zoo_hooks\nzoo_hooks.init()\n"
SYMBOL = "undefined symbol: _ZN3c10"
DISTRIBUTIONS = {"sklearn": "scikit-learn", "fla": "flash-linear-attention"}
BROKEN = f"raise ImportError(__name__ + ': {SYMBOL}')"


def package(
    folder: Path, name: str, body: str = BROKEN, files: dict[str, str] | None = None, version: str = "9.0.0"
) -> str:
    """Write a package as pip leaves one, and other files; the result is the PYTHONPATH that has it."""
    distribution = DISTRIBUTIONS.get(name, name)
    metadata = f"{distribution.replace('-', '_')}-{version}.dist-info"
    written = {
        f"{name}/__init__.py": body,
        f"{metadata}/METADATA": f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n",
        f"{metadata}/top_level.txt": name,
    }
    for file, text in (written | (files or {})).items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(text)
    return str(folder)


def status(patch: str) -> str:
    """Code that prints what became of a patch."""
    return f"\nprint(zoo_hooks.report()[{patch!r}].status.name)\n"


def tries(**calls: str) -> str:
    """Code that prints what each expression gives, or the error that it ends with."""
    code = ""
    for name, call in calls.items():
        code += f"try:\n    print({name!r}, {call})\nexcept Exception as error:\n"
        code += f"    print({name!r}, type(error).__name__, str(error).strip())\n"
    return code


def as_if_absent(folder: Path, name: str, patch: str, code: str, named: str = "") -> None:
    """What needs no such package works as without it, what names it gets its error; one warning has it."""
    seen = child(BEGIN + code + status(patch) + named, PYTHONPATH=package(folder, name))
    expected, _, errors = seen.stdout.partition("APPLIED\n")
    absent = f"import sys\nsys.modules[{name!r}] = None\n"  # also where a real one is installed
    assert expected == python(absent + code, ZOO_HOOKS=f"-{patch}")  # other bugs may end it too
    assert [line.split(" ", 1)[1] for line in errors.splitlines()] == [
        f"ImportError {name}: {SYMBOL}"
    ] * errors.count("\n")
    assert bool(errors) == bool(named)
    words = f"{name} is installed but cannot be imported (ImportError: {name}: {SYMBOL})"
    assert seen.stderr.count(words) == seen.stderr.count("zoo-hooks") == 1


def as_without_us(path: str, name: str, asked: str, code: str, patch: str) -> None:
    """Who only asks loads nothing, and is told that it is there; who imports it gets it, as without hooks."""
    code = f"print(bool({asked}), {name!r} in sys.modules)\n{code}\n"
    code += f"print(sorted(one for one in sys.modules if one.partition('.')[0] == {name!r}), {asked})"
    begin = BEGIN + "from transformers.utils import import_utils\n"
    seen = python(begin + code + status(patch), PYTHONPATH=path)
    assert seen == python(begin + code, PYTHONPATH=path, ZOO_HOOKS="0") + "APPLIED\n"
    assert seen.startswith("True False\n")
    assert f"[{name!r}" in seen
