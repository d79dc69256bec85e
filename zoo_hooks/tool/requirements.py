"""The releases that a command is asked about: installed, pinned by words, or pinned by files."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from zoo_hooks import releases
from zoo_hooks.tool import NOT_HERE, lockfiles
from zoo_hooks.tool.pins import Asked, Pin, Unreadable, only, parsed, place

LOCKS = (".toml", ".lock")
FILES = (".txt", *LOCKS)
"""A word that ends so is a file."""
SECONDS = 60  # for another interpreter to say what it has
ASK = (
    NOT_HERE
    + """
import json, os, platform
from importlib import metadata
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
        pass
print(json.dumps([found, {
    "implementation_name": sys.implementation.name,
    "implementation_version": platform.python_version(),
    "os_name": os.name,
    "platform_machine": platform.machine(),
    "platform_python_implementation": platform.python_implementation(),
    "platform_release": platform.release(),
    "platform_system": platform.system(),
    "platform_version": platform.version(),
    "python_full_version": platform.python_version(),
    "python_version": ".".join(platform.python_version_tuple()[:2]),
    "sys_platform": sys.platform,
}]))
"""
)
# A path, an address or an archive, which say no release
PLACE = re.compile(r"^(\.|/|~|[\w+]+://|[\w+]+@)|^[^;\s@]*[/\\]|\.(whl|zip|tar\.gz)$")


def asked(
    words: Iterable[str], files: Iterable[str], known: Collection[str], python: str | None = None
) -> Asked:
    """The releases that words and files pin; without any, those that are installed.

    Unreadable for an unreadable file, an invalid requirement, or a Python that does not run.
    """
    words = list(words)
    files = [*files, *(word for word in words if word.endswith(FILES))]
    words = [word for word in words if not word.endswith(FILES)]
    installed = not (words or files)
    found, markers = _another(python, known) if python else _this(known if installed else ())
    where = ", ".join([*files, *words]) or (f"the environment of {python}" if python else "this environment")
    new = Asked(where, known, markers, python, installed)
    new.pins["python"] = Pin(markers["python_full_version"])
    for name, version in found.items() if installed else ():
        try:
            new.pin(name, version)
        except Unreadable as error:  # noqa: PERF203 - an odd version loses only itself
            new.notes.append(f"{error}; left out")
    for file in files:
        text = read(file)
        if file.endswith(LOCKS):
            lockfiles.read(new, file, text)
        else:
            _Requirements(new).read(file, text)
    for word in words:
        _word(new, parsed(word))
    return new


def read(file: str, errors: str = "strict") -> str:
    """The text of a file; Unreadable if it cannot be read."""
    try:
        return Path(file).read_text(encoding="utf-8-sig", errors=errors)
    except UnicodeDecodeError:
        raise Unreadable(f"{file} cannot be read: it is not text in UTF-8") from None
    except (OSError, ValueError) as error:
        raise Unreadable(f"{file} cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _word(new: Asked, requirement: Requirement) -> None:
    name = canonicalize_name(requirement.name)
    if name not in new.known:
        new.notes.append(f"there is no data about {requirement.name}; left out")
    elif requirement.marker is None or new.holds(str(requirement.marker)):
        if version := only(requirement):
            new.pin(name, version)
        else:
            new.leave_out(name, f"{requirement} is not pinned to a release")


def _this(known: Iterable[str]) -> tuple[dict[str, str], dict[str, Any]]:
    found = {name: version for name in known if (version := releases.version(name))}
    return found, dict(default_environment())


def _another(python: str, known: Iterable[str]) -> tuple[dict[str, str], dict[str, Any]]:
    try:
        command = [python, "-c", ASK, *known]
        run = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                             timeout=SECONDS, check=False)  # fmt: skip
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise Unreadable(f"{python} cannot be run: {error}") from None
    try:
        found, markers = json.loads((run.stdout.splitlines() or [""])[-1])
    except ValueError:
        said = (run.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        raise Unreadable(f"{python} does not report its packages: {said}") from None
    return found, markers


class _Requirements:
    """Requirements files, which may name other files, and constraints."""

    def __init__(self, new: Asked) -> None:
        self.new = new
        self.read_already: set[tuple[Path, bool]] = set()
        self.loose: dict[str, tuple[str, str, int]] = {}
        self.constraints: dict[str, tuple[str, str, int]] = {}

    def read(self, file: str, text: str) -> None:
        """Add the pins of a file, and the pins of constraints for its other requirements."""
        self._file(file, text, constraint=False)
        for name, (said, where, line) in self.loose.items():
            if name in self.constraints:
                self.new.pin(name, *self.constraints[name])
            elif name not in self.new.pins:
                self.new.leave_out(name, f"{said} is not pinned to a release", where, line)

    def _file(self, file: str, text: str, *, constraint: bool) -> None:
        if (Path(file).resolve(), constraint) in self.read_already:
            return
        self.read_already.add((Path(file).resolve(), constraint))
        for number, line in _lines(text):
            option = re.match(r"(-r|-c|--requirement|--constraint)[ =]*(\S+)$", line)
            if option:
                other = option[2] if "://" in option[2] else str(Path(file).parent / option[2])
                self._file(other, read(other), constraint=constraint or option[1] in ("-c", "--constraint"))
            elif line.startswith("-e ") or PLACE.search(line):
                self.new.notes.append(f"{place(file, number)}{line} names no release; left out")
            elif not line.startswith("-"):
                self._requirement(parsed(line, place(file, number)), file, number, constraint=constraint)

    def _requirement(self, requirement: Requirement, file: str, line: int, *, constraint: bool) -> None:
        name, version = canonicalize_name(requirement.name), only(requirement)
        if requirement.marker and not self.new.holds(str(requirement.marker), place(file, line)):
            return
        if constraint and version:
            self.constraints[name] = (version, file, line)
        elif version:
            self.new.pin(name, version, file, line)
        elif not constraint:
            self.loose[name] = (str(requirement), file, line)


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Each logical line with its number, without comments and without options of a requirement."""
    begun, whole = 0, ""
    for number, line in enumerate(text.splitlines(), 1):
        begun = begun if whole else number
        whole += re.sub(r"(^|\s)#.*", "", line)
        if whole.endswith("\\"):
            whole = whole[:-1] + " "
            continue
        kept = whole.strip()
        kept = kept if kept.startswith("-") else re.split(r"\s--?\w", kept)[0].strip()
        if kept:
            yield begun, kept
        whole = ""
