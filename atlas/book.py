"""The atlas while it is being written: what is missing of it, and what is stale."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from datetime import date
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from atlas import cells, index
from atlas.digests import digests
from zoo_hooks import catalogue
from zoo_hooks.tool import atlas
from zoo_hooks.tool.atlas import Seen

CLAIMED = {
    patch.id: {canonicalize_name(Requirement(claim).name) for claim in patch.affects}
    for patch in catalogue.everything()
}
"""The distributions whose releases decide on a patch's verdict."""
DECIDED = ("AFFECTED", "FIXED")


class Task(NamedTuple):
    """What is to be measured in one cell."""

    releases: dict[str, str]
    patches: list[str]
    figures: bool = False
    """Whether canaries are run too."""

    def __str__(self) -> str:
        return " ".join(f"{name}=={version}" for name, version in self.releases.items())


class Book:
    """The atlas on disk, the patches as they are now, and what the index has."""

    def __init__(self) -> None:
        self.atlas = atlas.read()
        self.digests = digests()
        self.only_checks = False
        self._released: dict[str, dict[str, date]] = {}

    def write(self) -> None:
        """Write the file, unless this run only checks it."""
        if not self.only_checks:
            atlas.FILE.write_text(self.atlas.text(), encoding="utf-8")

    def released(self, name: str) -> dict[str, date]:
        """Releases of an upstream from the first that is measured on, with their days."""
        if name not in self._released:
            row = cells.TABLE.get(name, {"since": "0"})
            days = index.released(name, source="source" in row)
            days = {v: day for v, day in days.items() if Version(v) >= Version(row["since"])}
            if "minors" in row:
                firsts = {Version(v).release[:2]: v for v in reversed(days)}
                days = {v: days[v] for v in reversed(firsts.values())}
            self._released[name] = days
            if name in cells.TABLE:
                self.atlas.released[name] = {v: day.isoformat() for v, day in days.items()}
        return self._released[name]

    def day(self, releases: dict[str, str]) -> date:
        """The day as of which the rest of a cell is resolved: that of its newest release."""
        return max(self.released(name).get(version, date.min) for name, version in releases.items())

    def missing(self, upstreams: Iterable[str], since: date | None) -> Iterator[Task]:
        """Cells of releases that came out since then, newest first; by default since the newest measured."""
        for name in upstreams:
            newest = Version(max(self.atlas.versions(name), key=Version, default="0"))
            for version, day in reversed(self.released(name).items()):
                if day >= since if since else Version(version) > newest:
                    yield from self._of(name, version)

    def _of(self, name: str, version: str) -> Iterator[Task]:
        """A release with all else as it was then; at edges, beside the newest and oldest of others too."""
        yield from self._task({name: version}, [patch for patch, names in CLAIMED.items() if name in names])
        for other in cells.TABLE[name].get("beside", ()):
            between = [patch for patch, names in CLAIMED.items() if {name, other} <= names]
            both = [patch for patch in between if version in self._changes(patch, name)]
            oldest, *_, newest = self.released(other)
            for beside in (newest, oldest):
                yield from self._task({name: version, other: beside}, both)

    def _changes(self, patch: str, name: str) -> set[str]:
        """Releases of an upstream with which a patch's verdict changes, and the newest."""
        rows = [
            row._replace(releases={name: row.releases[name], **row.releases})
            for row in self.atlas.of(patch)
            if name in row.releases
        ]
        rows.sort(key=lambda row: Version(row.releases[name]))
        return {row.releases[name] for row in edges(rows)} | set(list(self.released(name))[-1:])

    def _task(self, releases: dict[str, str], patches: list[str]) -> Iterator[Task]:
        wanted = [patch for patch in patches if not self._is_current(patch, releases)]
        if wanted and pair(releases) not in self.atlas.conflicts:
            yield Task(releases, wanted)

    def _is_current(self, patch: str, releases: dict[str, str]) -> bool:
        return any(
            row.digest == self.digests[patch] and releases.items() <= row.releases.items()
            for row in self.atlas.of(patch)
        )

    def stale(self, before: dict[str, str] | None = None) -> Iterator[Task]:
        """Edges and newest releases of patches that are not as they were when measured, or then.

        All releases of a patch that never was.
        """
        for patch in CLAIMED:
            rows = self.atlas.of(patch)
            if before is not None and before.get(patch) == self.digests[patch]:
                continue
            for row in edges(rows):
                if row.digest and row.digest != self.digests[patch]:
                    yield Task(row.releases, [patch], figures=True)
            upstream = canonicalize_name(patch.partition("/")[0])
            for version in self.released(upstream) if not rows else ():
                yield from (task._replace(patches=[patch]) for task in self._of(upstream, version))

    def without_figures(self) -> Iterator[Task]:
        """Edges and newest releases on which a canary was not run yet."""
        for patch in CLAIMED:
            for row in edges(self.atlas.of(patch)):
                if row.digest == self.digests[patch] and row.without is None and row.verdict in DECIDED:
                    yield Task(row.releases, [patch], figures=True)


def edges(rows: list[Seen]) -> Iterator[Seen]:
    """Rows beside which the verdict is another one, and the newest.

    Those with the oldest releases of other upstreams, those with the newest and those in between are compared
    among themselves.
    """
    others = [[(name, Version(version)) for name, version in [*row.releases.items()][1:]] for row in rows]
    oldest, newest = min(others, default=[]), max(others, default=[])
    groups: dict[tuple[bool, bool], list[int]] = {}
    for place, other in enumerate(others):
        groups.setdefault((other == oldest, other == newest), []).append(place)
    found = {
        place
        for places in groups.values()
        for pair in itertools.pairwise(places)
        if rows[pair[0]].verdict != rows[pair[1]].verdict
        for place in pair
    }
    yield from (row for place, row in enumerate(rows) if place in found or row is rows[-1])


def merged(tasks: Iterable[Task]) -> list[Task]:
    """One task for each cell."""
    found: dict[str, Task] = {}
    for task in tasks:
        known = found.setdefault(str(task), task._replace(patches=[]))
        known.patches.extend(patch for patch in task.patches if patch not in known.patches)
    return list(found.values())


def pair(releases: dict[str, str]) -> str:
    """Releases as a conflict names them."""
    return ", ".join(f"{name} {version}" for name, version in sorted(releases.items()))
