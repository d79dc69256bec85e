"""Which bugs an upgrade removes and adds, and the best sets of releases, according to the atlas."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from zoo_hooks import catalogue
from zoo_hooks.model import Patch
from zoo_hooks.releases import claimed_upstreams
from zoo_hooks.tool.atlas import Atlas
from zoo_hooks.tool.audit import BUG, Answer, Finding, Judgement, audit, conflicts, judge
from zoo_hooks.tool.pins import Asked


class Plan(NamedTuple):
    """Two sets of releases, compared bug by bug."""

    before: Answer
    after: Answer

    @property
    def gone(self) -> list[Finding]:
        """Bugs that the upgrade takes away."""
        return _without(self.before, self.after)

    @property
    def brought(self) -> list[Finding]:
        """Bugs that it brings."""
        return _without(self.after, self.before)

    @property
    def kept(self) -> list[Finding]:
        """Bugs that are there before and after."""
        return [one for one in self.after.findings if one not in self.brought]


def plan(now: Asked, upgrade: Asked, measured: Atlas, trouble: str | None = None) -> Plan:
    """Compare a set of releases with the one that an upgrade makes of it."""
    then = replace(now, pins=now.pins | upgrade.pins, notes=[*now.notes, *upgrade.notes])
    return Plan(audit(now, measured, trouble), audit(then, measured, trouble))


def _without(some: Answer, others: Answer) -> list[Finding]:
    there = {one.patch for one in others.findings}
    return [one for one in some.findings if one.patch not in there]


def not_silent(judgement: Judgement) -> bool:
    """Whether this is allowed in a set without silent wrong results."""
    return judgement.verdict not in BUG or judgement.patch.severity != "silent wrong result"


def mended(judgement: Judgement) -> bool:
    """Whether this is allowed in a set that is correct with zoo-hooks."""
    return judgement.verdict not in ("FAILED", "UNKNOWN")


BEST = {
    "without_silent": (not_silent, "the newest releases without a silent wrong result"),
    "repaired": (mended, "the newest releases on which zoo-hooks repairs every bug"),
}
"""What ``--best`` looks for: what is allowed, and how it is called."""


class Set(NamedTuple):
    """Releases that go together."""

    releases: dict[str, str]
    exact: bool
    """Whether exactly these were measured for each patch; else the nearest measurements are used."""

    def __str__(self) -> str:
        pins = " ".join(f"{name}=={version}" for name, version in self.releases.items())
        return pins + ("" if self.exact else "  (partly judged by the nearest measured releases)")


def best(
    wanted: Iterable[Requirement], measured: Atlas, python: str, allowed: Callable[[Judgement], bool]
) -> Set | None:
    """The newest set of releases that has only what is allowed; None if there is none.

    The first package is made as new as possible, then the second. A completely measured set comes before one
    that is not.
    """
    choices = {str(canonicalize_name(one.name)): _newest_first(one, measured) for one in wanted}
    for exact in (True, False):
        found = _search(choices, {}, _Right(measured, python, allowed, exact=exact))
        if found:
            return Set(found, exact)
    return None


def _search(choices: dict[str, list[str]], chosen: dict[str, str], right: _Right) -> dict[str, str] | None:
    if len(chosen) == len(choices):
        return chosen
    name = list(choices)[len(chosen)]
    for version in choices[name]:
        more = chosen | {name: version}
        if right(more, name) and (found := _search(choices, more, right)):
            return found
    return None


class _Right:
    """Whether the releases chosen so far only have allowed bugs; each pair is judged once."""

    def __init__(
        self, measured: Atlas, python: str, allowed: Callable[[Judgement], bool], *, exact: bool
    ) -> None:
        self.measured, self.allowed, self.exact = measured, allowed, exact
        self.python = {"python": python}
        self.names = {
            patch: sorted(map(canonicalize_name, claimed_upstreams(patch)))
            for patch in catalogue.everything()
        }
        self.answers: dict[tuple[str, ...], bool] = {}

    def __call__(self, chosen: dict[str, str], newest: str) -> bool:
        """Judge the patches that involve the package that was chosen last."""
        return not conflicts(chosen, self.measured) and all(
            self._judged(patch, chosen)
            for patch, names in self.names.items()
            if newest in names and chosen.keys() >= set(names)
        )

    def _judged(self, patch: Patch, chosen: dict[str, str]) -> bool:
        key = patch.id, *(chosen[name] for name in self.names[patch])
        if key not in self.answers:
            found = judge(patch, self.python | chosen, self.measured)
            fits = found is not None and (found.exact or not self.exact)
            self.answers[key] = found is not None and fits and self.allowed(found)
        return self.answers[key]


def _newest_first(wanted: Requirement, measured: Atlas) -> list[str]:
    """Measured releases, by the day of release if that is known of all, else by number."""
    name = canonicalize_name(wanted.name)
    early = wanted.specifier.prereleases or False  # only where they are asked for
    versions = measured.versions(name)
    there = [one for one in versions if wanted.specifier.contains(one, prereleases=early)]
    days = measured.released.get(name, {})
    known = all(version in days for version in there)
    return sorted(there, key=lambda one: (days[one] if known else "", Version(one)), reverse=True)
