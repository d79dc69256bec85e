"""``pylock.toml``, ``uv.lock`` and ``poetry.lock``: all packages that they lock for this platform.

Extras and groups are included, because a lock file does not say which of them are installed. Only the markers
of a ``pylock.toml`` name them; there, only the default groups are included.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from packaging.utils import canonicalize_name

from zoo_hooks.tool.pins import Asked, Unreadable, place

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read(new: Asked, file: str, text: str) -> None:
    """Add the pins of a lock file; Unreadable if it is none of the three."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Unreadable(f"{file} cannot be parsed: {error}") from None
    standard = "lock-version" in data  # a pylock.toml
    packages = data.get("packages" if standard else "package")
    if packages is None and not standard:
        raise Unreadable(f"{file} is neither a pylock.toml nor a uv.lock nor a poetry.lock")
    if not isinstance(packages, list) or not all(map(_named, packages)):
        raise Unreadable(f"{file} has a package without a name")
    groups = frozenset(data.get("default-groups", ()))
    sets = {"extras": frozenset[str](), "dependency_groups": groups} if standard else {}
    found: dict[str, dict[str | None, int | None]] = {}
    for package in packages:
        name, version = str(canonicalize_name(package["name"])), package.get("version")
        line = _line(text, package["name"], version)
        if name not in new.known:
            new.others += 1
        elif _applies(new, package, place(file, line), sets):
            found.setdefault(name, {})[version] = line
    for name, versions in found.items():
        _take(new, name, versions, file)


def _named(package: Any) -> bool:
    return isinstance(package, dict) and isinstance(package.get("name"), str)


def _take(new: Asked, name: str, versions: dict[str | None, int | None], file: str) -> None:
    if len(versions) > 1:
        which = " and ".join(map(str, versions))
        new.leave_out(name, f"{name} is locked to {which}, either of which may be installed here", file)
        return
    for version, line in versions.items():
        if version is None:
            new.leave_out(name, f"{name} is not locked to a release", file, line)
        else:
            new.pin(name, version, file, line)


def _applies(new: Asked, package: dict[str, Any], where: str, sets: dict[str, Any]) -> bool:
    markers = list(_markers(package))
    return not markers or any(new.holds(marker, where, **sets) for marker in markers)


def _markers(package: dict[str, Any]) -> Iterable[str]:
    """The markers of a package, one of which has to hold; empty if it is always installed."""
    if "resolution-markers" in package:  # uv.lock
        return list(package["resolution-markers"])
    marker = package.get("marker") or package.get("markers") or ()  # pylock.toml, poetry.lock
    return [marker] if isinstance(marker, str) else list(marker.values()) if marker else []


def _line(text: str, name: str, version: str | None) -> int | None:
    """The line that names a package; if there are several, the one with that version below it."""
    lines = text.splitlines()
    named = [number for number, line in enumerate(lines) if line.replace(" ", "") == f'name="{name}"']
    below = [number for number in named if version and f'"{version}"' in "".join(lines[number : number + 2])]
    return next((number + 1 for number in [*below, *named]), None)
