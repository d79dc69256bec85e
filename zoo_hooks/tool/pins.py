"""The set of releases that a command is asked about."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from packaging.markers import InvalidMarker, Marker, UndefinedComparison, UndefinedEnvironmentName
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version


class Unreadable(ValueError):
    """The input cannot be read; the message says why in one line."""


class Pin(NamedTuple):
    """One release, and where it is pinned."""

    version: str
    file: str | None = None
    line: int | None = None


@dataclass
class Asked:
    """A set of releases."""

    where: str
    """Where it comes from, in words."""
    known: Collection[str]
    """Distributions with data; the others are only counted."""
    markers: Mapping[str, Any]
    """What environment markers are evaluated with."""
    python: str | None = None
    """The interpreter that was named; None for this one."""
    installed: bool = False
    """Whether these are the releases of an environment, in which ``ZOO_HOOKS`` has an effect."""
    pins: dict[str, Pin] = field(default_factory=dict)
    """By canonical name. ``python`` is the interpreter that markers are evaluated for."""
    notes: list[str] = field(default_factory=list)
    """What was left out, and why, each in a line."""
    others: int = 0
    """The number of packages without data."""

    @property
    def versions(self) -> dict[str, str]:
        """Versions by name."""
        return {name: pin.version for name, pin in self.pins.items()}

    def pin(self, name: str, version: str, file: str | None = None, line: int | None = None) -> None:
        """Add a release; Unreadable if the version is invalid, or if another one is pinned already."""
        name = canonicalize_name(name)
        if name not in self.known:
            self.others += 1
            return
        try:
            public = Version(version).public  # without what says for which machine it was built
        except InvalidVersion:
            raise Unreadable(f"{place(file, line)}{name} {version} is not a valid version") from None
        there = self.pins.setdefault(name, Pin(public, file, line))
        if there.version != public:
            raise Unreadable(f"{place(file, line)}{name} is pinned to {public}, but also to {there.version}")

    def leave_out(self, name: str, why: str, file: str | None = None, line: int | None = None) -> None:
        """Note why a package with data is left out."""
        if canonicalize_name(name) in self.known:
            self.notes.append(f"{place(file, line)}{why}; left out")
        else:
            self.others += 1

    def holds(self, marker: str, where: str = "", **more: Any) -> bool:
        """Evaluate an environment marker; Unreadable if that fails."""
        try:
            return Marker(marker).evaluate({**self.markers, **more})
        except (InvalidMarker, UndefinedComparison, UndefinedEnvironmentName) as error:
            why = str(error).partition("\n")[0] + ("; groups need packaging 25 or later" if more else "")
            raise Unreadable(f"{where}the marker {marker!r} cannot be evaluated: {why}") from None


def place(file: str | None, line: int | None) -> str:
    """File and line as the beginning of a message; empty for a word."""
    return f"{file}{f':{line}' if line else ''}: " if file else ""


def parsed(word: str, where: str = "") -> Requirement:
    """Parse a requirement; Unreadable if it is invalid."""
    try:
        return Requirement(word)
    except InvalidRequirement as error:
        why = str(error).partition("\n")[0]
        raise Unreadable(f"{where}{word!r} is not a valid requirement: {why}") from None


def only(requirement: Requirement) -> str | None:
    """The one release that a requirement allows; None if there may be several."""
    exact = [part.version for part in requirement.specifier if part.operator in ("==", "===")]
    return next((version for version in exact if not version.endswith("*")), None)
