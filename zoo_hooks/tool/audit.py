"""Which known bugs a set of releases has, according to the atlas. No upstream is imported."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from zoo_hooks import catalogue, settings
from zoo_hooks.model import SEVERITIES, Patch
from zoo_hooks.releases import claimed_upstreams, fixed_in
from zoo_hooks.tool.atlas import Atlas, Seen, distance, nearest, number, words
from zoo_hooks.tool.pins import Asked

BUG = ("AFFECTED", "FAILED")


class Judgement(NamedTuple):
    """What is known of one patch on a set of releases."""

    patch: Patch
    verdict: str
    releases: dict[str, str]
    """The releases of the set that the patch is about."""
    measured: dict[str, str]
    """The releases of the nearest measurement; empty if there is none."""
    seen: str | None = None
    """The verdict of that measurement."""
    claimed: tuple[str, ...] = ()
    """Packages of which that measurement has no version."""

    @property
    def exact(self) -> bool:
        """Whether just these releases were measured."""
        same = (number(self.releases[name]) == number(version) for name, version in self.measured.items())
        return bool(self.measured) and all(same)

    @property
    def basis(self) -> str:
        """What the answer is based on if these releases were not measured; else empty."""
        if self.seen is None:
            return "by its declared releases; never measured"
        if not self.exact and (self.verdict in BUG) == (self.seen in BUG):
            return f"nearest measured: {words(self.measured)}"
        if not self.exact:
            return f"by its declared releases; nearest measured: {words(self.measured)}, {self.seen}"
        others = " and ".join(f"{name} {self.releases[name]}" for name in self.claimed)
        return f"by its declared releases; not measured with {others}" if others else ""


class Finding(NamedTuple):
    """A bug of a set of releases."""

    judgement: Judgement
    trouble: str = ""
    """Why the hooks do not repair it; empty if they do."""

    @property
    def patch(self) -> Patch:
        """The patch for this bug."""
        return self.judgement.patch

    def as_dict(self) -> dict[str, Any]:
        """The finding as in the JSON."""
        judgement = self.judgement._asdict() | {"exact": self.judgement.exact}
        about = {name: getattr(self.patch, name) for name in ("id", "title", "severity", "links")}
        del judgement["patch"]
        return about | {
            **judgement,
            "repaired": not self.trouble,
            "trouble": self.trouble or None,
            "fixed_in": fixed_in(self.patch),
        }


@dataclass
class Answer:
    """The bugs of a set of releases, the worst first."""

    asked: Asked
    findings: list[Finding] = field(default_factory=list)
    others: list[Judgement] = field(default_factory=list)
    """Patches that were judged and whose bugs these releases do not have."""
    notes: list[str] = field(default_factory=list)

    @property
    def left(self) -> list[Finding]:
        """The bugs that the hooks do not repair."""
        return [finding for finding in self.findings if finding.trouble]

    def as_dict(self) -> dict[str, Any]:
        """The answer as in the JSON."""
        names = ("verdict", "measured", "exact")
        others = [{"id": one.patch.id} | {name: getattr(one, name) for name in names} for one in self.others]
        bugs = [one.as_dict() for one in self.findings]
        return {"releases": self.asked.versions, "bugs": bugs, "others": others, "notes": self.notes}


def known(measured: Atlas) -> set[str]:
    """Distributions with data, and zoo-hooks itself."""
    claimed = {
        canonicalize_name(name) for patch in catalogue.everything() for name in claimed_upstreams(patch)
    }
    return {*claimed, *measured.names(), "zoo-hooks"} - {"python"}


def audit(asked: Asked, measured: Atlas, trouble: str | None = None) -> Answer:
    """Judge a set of releases; ``trouble`` says why zoo-hooks is not active there at all."""
    answer = Answer(asked, notes=[*asked.notes, *_unmeasured(asked.versions, measured)])
    if any(pin.file for pin in asked.pins.values()) and "zoo-hooks" not in asked.pins:
        answer.notes.append("zoo-hooks is not pinned here; it repairs only where it is installed")
    for patch in catalogue.everything():
        judgement = judge(patch, asked.versions, measured)
        if judgement and judgement.verdict in BUG:
            failed = "its repair fails there" if judgement.verdict == "FAILED" else ""
            off = settings.read().refusal(patch.id) if asked.installed else ""
            answer.findings.append(Finding(judgement, failed or off or trouble or ""))
        elif judgement:
            answer.others.append(judgement)
    answer.findings.sort(key=lambda one: (SEVERITIES.index(one.patch.severity), one.patch.id))
    unsure = [one.patch.id for one in answer.others if one.verdict == "UNKNOWN"]
    answer.notes += [f"the probe does not know this code, so zoo-hooks does nothing: {one}" for one in unsure]
    return answer


def judge(patch: Patch, versions: dict[str, str], measured: Atlas) -> Judgement | None:
    """What is known of a patch on these releases; None if a package of the bug is not among them.

    If exactly these were not measured, ``affects`` gives the answer. It agrees with every measurement.
    The nearest measurement is named.
    """
    names = sorted(map(canonicalize_name, claimed_upstreams(patch)))
    if not all(name in versions for name in names):
        return None
    rows = [row for row in measured.of(patch.id) if row.releases.keys() <= versions.keys()]
    row = min(rows, key=lambda row: _distances(row, versions, names), default=None)
    unseen = (name for name in names if not row or name not in row.releases)
    claimed = tuple(unseen) if not row or row.verdict in BUG else ()  # right alone is right with others
    about = {name: versions[name] for name in [*(row.releases if row else ()), *names]}
    verdict = "AFFECTED" if claims(patch, versions) else "FIXED"
    if row is None:
        return Judgement(patch, verdict, about, {}, None, claimed)
    found = Judgement(patch, row.verdict, about, row.releases, row.verdict, claimed)
    sure = (found.exact and not claimed) or row.verdict in ("UNKNOWN", "FAILED")
    return found if sure else found._replace(verdict=verdict)


def claims(patch: Patch, versions: dict[str, str]) -> bool:
    """Whether ``affects`` of a patch includes these releases."""
    return all(
        claim.specifier.contains(versions[canonicalize_name(claim.name)], prereleases=True)
        and (not claim.marker or claim.marker.evaluate({"python_full_version": versions["python"]}))
        for claim in map(Requirement, patch.affects)
    )


def _distances(row: Seen, versions: dict[str, str], names: Iterable[str]) -> list[tuple[int, ...]]:
    """How much a row differs, by its upstream first; with equal differences, more packages come first."""
    known = [distance(versions[name], version) for name, version in row.releases.items()]
    return known + [(0, 0, 0, 0, 1) for name in names if name not in row.releases]


def _unmeasured(versions: dict[str, str], measured: Atlas) -> list[str]:
    """A line for each version without measurements, and for each pair that cannot be installed together."""
    lines = []
    for name, version in sorted(versions.items()):
        there = measured.versions(name)
        if there and name != "python" and number(version) not in map(number, there):
            lines.append(
                f"{name} {version} was never measured; the nearest measured is {nearest(version, there)}"
            )
    return [*lines, *conflicts(versions, measured)]


def conflicts(versions: dict[str, str], measured: Atlas) -> list[str]:
    """A line for each pair of these releases that cannot be installed together."""
    return [
        f"{pair} cannot be installed together: {why}"
        for pair, why in measured.conflicts.items()
        if all(versions.get(name) == version for name, version in map(str.split, pair.split(", ")))
    ]
