"""What was measured on real releases, from ``zoo_hooks/atlas.json``. No upstream is imported."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from packaging.utils import canonicalize_name
from packaging.version import Version

FILE = Path(__file__).parents[1] / "atlas.json"
SCHEMA = 2
VERDICTS = ("AFFECTED", "FIXED", "ABSENT", "UNKNOWN", "FAILED")
"""The possible results; the file gives their place here. ABSENT: a release lacks what the patch is about."""


class Seen(NamedTuple):
    """One patch on one set of releases."""

    releases: dict[str, str]
    """Versions by distribution, that of the patch's upstream first; ``python`` where it matters."""
    verdict: str
    """One of VERDICTS."""
    without: str | None = None
    """The canary's figure without the hooks, in the unit of ``Patch.measures``; None where it was not run."""
    repaired: str | None = None
    """The canary's figure with the hooks."""
    digest: str | None = None
    """Digest of the measured patch. None, like Python and date, if it was not recorded."""
    python: str | None = None
    date: str | None = None
    """Day of the measurement, as in 2026-11-29."""


@functools.cache
def read(file: Path = FILE) -> Atlas:
    """The atlas on disk."""
    data = json.loads(file.read_text(encoding="utf-8"))
    if data["schema"] != SCHEMA:
        raise ValueError(f"{file} has schema {data['schema']}; this release of zoo-hooks reads {SCHEMA}")
    return Atlas(data)


class Atlas:
    """What was seen, by patch; and when releases came out."""

    def __init__(self, data: dict[str, Any] | None = None) -> None:
        data = data or {"released": {}, "conflicts": {}, "patches": {}}
        self.released: dict[str, dict[str, str]] = data["released"]
        """By distribution and version, the day of the release."""
        self.conflicts: dict[str, str] = data["conflicts"]
        """Releases that cannot be installed together, as ``peft 0.15.0, transformers 5.24.0``, and why."""
        self.patches: dict[str, list[Seen]] = {
            patch: [
                _seen(patch, releases, entry["beside"], row, entry["runs"])
                for releases, row in entry["seen"].items()
            ]
            for patch, entry in data["patches"].items()
        }

    def of(self, patch: str) -> list[Seen]:
        """All measurements of a patch, by release."""
        return self.patches.get(patch, [])

    def put(self, patch: str, seen: Seen) -> None:
        """Record a measurement; it replaces an earlier one on the same releases."""
        others = [one for one in self.of(patch) if one.releases != seen.releases]
        self.patches[patch] = sorted([*others, seen], key=lambda one: _order(one.releases))

    def versions(self, name: str) -> list[str]:
        """Measured versions of a distribution, oldest first."""
        found = {one.releases[name] for rows in self.patches.values() for one in rows if name in one.releases}
        return sorted(found, key=Version)

    def names(self) -> set[str]:
        """Distributions with measurements."""
        return {name for rows in self.patches.values() for one in rows for name in one.releases}

    def first_seen(self, patch: str) -> dict[str, str] | None:
        """The oldest releases on which a patch's bug was seen, None if it never was."""
        affected = (one.releases for one in self.of(patch) if one.verdict == "AFFECTED")
        return min(affected, key=_order, default=None)

    def text(self) -> str:
        """The text of the file. Each set of releases has its own line, so that changes are readable."""
        patches = []
        for patch, rows in sorted(self.patches.items()):
            made = {(row.digest, row.python, row.date) for row in rows}
            runs = sorted(made, key=lambda run: [part or "" for part in reversed(run)])
            beside = next((list(row.releases)[1:] for row in rows if len(row.releases) > 1), [])
            lines = [f"{json.dumps(_key(row.releases, beside))}: {_compact(_row(row, runs))}" for row in rows]
            seen = ",\n".join(lines)
            head = f'"beside": {json.dumps(beside)}, "runs": {_compact(runs)}'
            patches.append(f'{json.dumps(patch)}: {{{head}, "seen": {{\n{seen}\n}}}}')
        released = ",\n".join(
            f"{json.dumps(name)}: {_compact(dict(sorted(days.items(), key=lambda day: Version(day[0]))))}"
            for name, days in sorted(self.released.items())
        )
        conflicts = ",\n".join(
            f"{json.dumps(pair)}: {json.dumps(why)}" for pair, why in sorted(self.conflicts.items())
        )
        return (
            f'{{"schema": {SCHEMA},\n"verdicts": {json.dumps(VERDICTS)},\n'
            f'"released": {{\n{released}\n}},\n"conflicts": {{\n{conflicts}\n}},\n'
            f'"patches": {{\n' + ",\n".join(patches) + "\n}}\n"
        )


def words(releases: dict[str, str]) -> str:
    """A set of releases in words: ``peft 0.19.0 with transformers 5.24.0``."""
    own, *others = (f"{name} {version}" for name, version in releases.items())
    return own + (f" with {', '.join(others)}" if others else "")


@functools.cache
def number(version: str) -> tuple[int, ...]:
    """A version as numbers that can be compared: its parts, and its rank among release candidates."""
    read = Version(version)
    parts = (*read.release, 0, 0, 0)[:4]
    if read.pre:
        return *parts, {"a": 0, "b": 100, "rc": 200}[read.pre[0]] + read.pre[1]
    return *parts, -1 if read.dev is not None else 1000 + (read.post or 0)


def nearest(version: str, others: Iterable[str]) -> str:
    """The version that differs least; of two with the same difference the older one."""
    return min(others, key=lambda other: distance(version, other))


@functools.cache
def distance(one: str, other: str) -> tuple[int, ...]:
    """By how much two versions differ in the first part that does; then the later of older ones is nearer."""
    ours, theirs = number(one), number(other)
    for place, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        if a != b:
            rest = (part if b > a else -part for part in theirs[place + 1 :])
            return *(0,) * place, abs(a - b), b > a, *rest
    return (0,) * len(ours)


def _seen(patch: str, key: str, beside: list[str], row: list[Any], runs: list[Any]) -> Seen:
    upstream = canonicalize_name(patch.partition("/")[0])
    own, *others = key.split(", ")
    named = [other.split() for other in others if " " in other] or zip(beside, others, strict=False)
    releases = {upstream: own} | dict(named)
    verdict, run, *figures = row
    without, repaired = figures or (None, None)
    return Seen(releases, VERDICTS[verdict], without, repaired, *runs[run])


def _row(row: Seen, runs: list[tuple[str | None, str | None, str | None]]) -> list[Any]:
    run = runs.index((row.digest, row.python, row.date))
    return [VERDICTS.index(row.verdict), run, *([] if row.without is None else [row.without, row.repaired])]


def _key(releases: dict[str, str], beside: list[str]) -> str:
    """Versions, with names too where they are not those of the rest of the patch."""
    (_, own), *others = releases.items()
    usual = [name for name, _ in others] == beside
    return ", ".join([own, *(version if usual else f"{name} {version}" for name, version in others)])


def _order(releases: dict[str, str]) -> list[tuple[str, Version]]:
    return [(name, Version(version)) for name, version in releases.items()]


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
