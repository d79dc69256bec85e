"""Which releases are installed, and which would fix a bug. Read for reports, never at start-up."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from zoo_hooks.model import Patch


def version(upstream: str) -> str | None:
    """Installed version of an upstream, None if there is none."""
    import importlib_metadata

    try:
        return importlib_metadata.version(upstream)
    except importlib_metadata.PackageNotFoundError:
        return None


def claimed_upstreams(patch: Patch) -> set[str]:
    """Names of the distributions in a patch's ``affects``."""
    from packaging.requirements import Requirement

    return {Requirement(claim).name for claim in patch.affects}


def fixed_in(patch: Patch) -> list[str]:
    """Requirements, such as ``trl>=0.27.0``, each of which fixes the bug by itself.

    They are the upper bounds in ``affects``. Of a pair of libraries, the one with an upper bound is the one
    that has to be upgraded. Empty if the newest releases have the bug.
    """
    from packaging.requirements import Requirement

    beyond = {"<": ">=", "<=": ">", "==": ">"}
    ends = []
    for claim in map(Requirement, patch.affects):
        ends += [(claim.name, part.operator, part.version) for part in claim.specifier]
        marker = re.fullmatch(r'python_full_version (\S+) "(\S+)"', str(claim.marker))
        ends += [("python", marker[1], marker[2])] if marker else []
    return [f"{name}{beyond[operator]}{end}" for name, operator, end in ends if operator in beyond]


def met(requirement: str) -> str | None:
    """Installed version if it meets the requirement; None if it does not, or if nothing is installed."""
    from packaging.requirements import Requirement

    needed = Requirement(requirement)
    has = version(needed.name)
    return has if has and needed.specifier.contains(has, prereleases=True) else None


def misfits(upstreams: Iterable[str]) -> Iterator[str]:
    """A message for each installed package that the requirements of an upstream exclude."""
    import importlib_metadata
    from packaging.requirements import Requirement

    for upstream in upstreams:
        for text in importlib_metadata.requires(upstream) or () if version(upstream) else ():
            needed = Requirement(text)
            has = version(needed.name)
            applies = not needed.marker or needed.marker.evaluate({"extra": ""})
            if has and applies and not needed.specifier.contains(has, prereleases=True):
                yield (
                    f"{upstream} {version(upstream)} does not work with {needed.name} {has}, and no "
                    f"patch can repair that. This fits: pip install '{needed.name}{needed.specifier}'"
                )
