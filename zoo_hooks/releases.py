"""What is installed, and which other releases would do better. Read for reports, never at start."""

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
    """Names of the distributions that a patch's claim speaks of."""
    from packaging.requirements import Requirement

    return {Requirement(claim).name for claim in patch.affects}


def fixed_in(patch: Patch) -> list[str]:
    """Requirements, such as ``trl>=0.27.0``, each of which makes the patch needless by itself.

    They are the upper ends of the claim: the side of a pair that has one is the side that is behind.
    None if the newest releases have the bug.
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
    """Installed version, if the requirement allows it; None if it is another one, or none is installed."""
    from packaging.requirements import Requirement

    needed = Requirement(requirement)
    has = version(needed.name)
    return has if has and needed.specifier.contains(has, prereleases=True) else None


def misfits(upstreams: Iterable[str]) -> Iterator[str]:
    """A sentence for each installed package that an upstream declares not to work with."""
    import importlib_metadata
    from packaging.requirements import Requirement

    for upstream in upstreams:
        for text in importlib_metadata.requires(upstream) or () if version(upstream) else ():
            needed = Requirement(text)
            has = version(needed.name)
            applies = not needed.marker or needed.marker.evaluate({"extra": ""})
            if has and applies and not needed.specifier.contains(has, prereleases=True):
                yield (
                    f"{upstream} {version(upstream)} does not work with {needed.name} {has}, which no "
                    f"patch can repair; what fits: pip install '{needed.name}{needed.specifier}'"
                )
