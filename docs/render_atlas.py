"""Renders what was measured: the grid of the atlas page, and the verdicts on a patch's own page.

Both are made from ``zoo_hooks/atlas.json`` while the docs are built, by ``render_catalogue.write_generated``.
The grid is a table for each library that can be read as it is. ``_static/atlas.js`` adds filters, keys and
details.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape
from typing import NamedTuple

from packaging.utils import canonicalize_name
from packaging.version import Version

from zoo_hooks.model import SEVERITIES, Patch
from zoo_hooks.tool.atlas import Atlas, Seen, words

WORST = ("FAILED", "UNKNOWN", "AFFECTED", "FIXED", "ABSENT")
"""The verdict of a cell is the first of these that one of its pairs has."""
MEANING = {
    "AFFECTED": ("✗", "the bug is there; zoo-hooks repairs it"),
    "FIXED": ("✓", "the bug is not there"),
    "ABSENT": ("∅", "the code that the patch is about is not there"),
    "UNKNOWN": ("?", "the probe does not know this code; zoo-hooks leaves it alone"),
    "FAILED": ("!", "probe or repair raised; zoo-hooks leaves the code alone"),
}
"""Of each verdict its sign in a cell, and what it says."""


class Group(NamedTuple):
    """Releases beside one release of the upstream that gave the same."""

    verdict: str
    without: str | None
    repaired: str | None
    beside: list[str]
    """Such as ``transformers 5.24.0``; empty text for the release alone."""


def groups(seen: Iterable[Seen]) -> list[Group]:
    """What was seen on one release of the upstream, worst first; within a group newest first."""
    found: dict[tuple[str, str | None, str | None], list[str]] = {}
    for row in reversed(list(seen)):
        (_, *others) = row.releases.items()
        beside = ", ".join(f"{name} {version}" for name, version in others)
        found.setdefault((row.verdict, row.without, row.repaired), []).append(beside)
    made = [Group(*what, beside) for what, beside in found.items()]
    return sorted(made, key=lambda group: WORST.index(group.verdict))


def by_release(seen: Iterable[Seen]) -> dict[str, list[Seen]]:
    """Rows by the version of the patch's own upstream, newest version first."""
    found: dict[str, list[Seen]] = {}
    for row in seen:
        own = next(iter(row.releases.values()))
        found.setdefault(own, []).append(row)
    return {version: found[version] for version in sorted(found, key=Version, reverse=True)}


def grid(patches: Iterable[Patch], measured: Atlas) -> str:
    """The HTML of the atlas page: filters, legend, and a table for each library, the largest first."""
    libraries: dict[str, list[Patch]] = {}
    for patch in patches:
        libraries.setdefault(patch.upstream, []).append(patch)
    libraries = dict(sorted(libraries.items(), key=lambda item: (-len(item[1]), item[0])))
    severities = [one for one in SEVERITIES if any(patch.severity == one for patch in patches)]
    lines = ['<div id="atlas">', *_filters(sorted(libraries), severities), *_legend()]
    for upstream, own in libraries.items():
        lines += _section(upstream, own, measured)
    lines += [
        '<p id="atlas-tip" hidden aria-hidden="true"></p>',
        '<aside id="atlas-details" aria-label="Details" aria-live="polite" hidden></aside>',
        "</div>",
    ]
    return "\n".join(lines) + "\n"


def verdicts(patch: Patch, measured: Atlas) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Head and rows of the table on a patch's page: a row for each release, newest first."""
    days = measured.released.get(canonicalize_name(patch.upstream), {})
    seen = measured.of(patch.id)
    paired = any(len(row.releases) > 1 for row in seen)
    figures = any(row.without is not None for row in seen)
    head = (patch.upstream, *["came out"] * bool(days), *["with"] * paired, "the probe says")
    rows = [
        (
            version,
            *[days.get(version, "")] * bool(days),
            *[", ".join(_shortened(group.beside)) or "alone"] * paired,
            group.verdict,
            *[_code(group.without), _code(group.repaired)] * figures,
        )
        for version, own in by_release(seen).items()
        for group in groups(own)
    ]
    return (*head, *("without zoo-hooks", "with zoo-hooks") * figures), rows


def facts(patch: Patch, measured: Atlas) -> list[str]:
    """What the newest release says, and when the patch was measured last."""
    seen = measured.of(patch.id)
    dates = [row.date for row in seen if row.date]
    return [
        *(f"- Newest release measured: {words(row.releases)}, {row.verdict}" for row in seen[-1:]),
        *([f"- Last measured on {max(dates)}"] if dates else []),
    ]


def _filters(libraries: list[str], severities: list[str]) -> Iterator[str]:
    yield '<form role="search" aria-label="Patches" hidden>'
    for name, choices in ("library", libraries), ("severity", severities):
        options = "".join(f"<option>{escape(choice)}</option>" for choice in choices)
        yield f'<label>{name.capitalize()} <select name="{name}"><option value="">all</option>'
        yield f"{options}</select></label>"
    yield '<label>Text <input type="search" name="text" autocomplete="off"></label>'
    yield '<button type="reset">Clear</button>'
    yield '<p role="status"></p>'
    yield "</form>"


def _legend() -> Iterator[str]:
    yield '<ul class="atlas-legend">'
    for verdict, (sign, meaning) in MEANING.items():
        yield f'<li><span class="{verdict}" aria-hidden="true">{sign}</span>'
        yield f"<div><b>{verdict}</b> {meaning}</div></li>"
    yield '<li><span class="AFFECTED some" aria-hidden="true">✗</span>'
    yield "<div><b>cut corner</b> only with some releases of the other library</div></li>"
    yield "</ul>"


def _section(upstream: str, patches: list[Patch], measured: Atlas) -> Iterator[str]:
    name = canonicalize_name(upstream)
    seen = {patch.id: by_release(measured.of(patch.id)) for patch in patches}
    versions = sorted({version for rows in seen.values() for version in rows}, key=Version, reverse=True)
    days = measured.released.get(name, {})
    yield f'<section aria-labelledby="{upstream}">'
    yield f'<h2 id="{upstream}">{upstream}</h2>'
    yield f'<div class="atlas-scroll" role="region" aria-label="{upstream}, table" tabindex="0">'
    yield f"<table><caption>Patches of {upstream} on {len(versions)} releases, newest first</caption>"
    heads = "".join(
        f'<th scope="col"{_attribute("title", days.get(version))}>{version}</th>' for version in versions
    )
    yield f'<thead><tr><th scope="col">Patch</th>{heads}</tr></thead>'
    yield "<tbody>"
    for patch in patches:
        bug = patch.id.partition("/")[2]
        yield f'<tr id="{patch.id}" data-severity="{patch.severity}"{_claims(patch)}>'
        yield f'<th scope="row"><a href="catalogue/{patch.id}.html">{bug}</a>'
        yield f" <span>{escape(patch.title)}</span></th>"
        yield "".join(_cell(f"{name} {version}", seen[patch.id].get(version, [])) for version in versions)
        yield "</tr>"
    yield "</tbody></table></div></section>"


def _claims(patch: Patch) -> str:
    return _attribute("data-claim", " ".join(patch.affects)) + _attribute("data-measures", patch.measures)


def _cell(release: str, seen: list[Seen]) -> str:
    if not seen:
        return f'<td aria-label="not measured on {release}"></td>'
    found = groups(seen)
    verdict = found[0].verdict
    label = f"{verdict} on {release}"
    same = sum(len(group.beside) for group in found if group.verdict == verdict)
    if len(seen) > 1:
        label += f", in {same} of {len(seen)} pairs"
    figure = next((one for one in found if one.verdict == verdict and one.without is not None), None)
    if figure:
        label += f"; without zoo-hooks {figure.without}, with {figure.repaired}"
    kind = f"{verdict} some" if same < len(seen) else verdict
    pairs = "\n".join(map(_listed, found)) if any(len(row.releases) > 1 for row in seen) else None
    return (
        f'<td class="{kind}" aria-label="{escape(label)}"{_attribute("data-pairs", pairs)}>'
        f"{MEANING[verdict][0]}</td>"
    )


def _listed(group: Group) -> str:
    figures = f" ({group.without} without, {group.repaired} with)" if group.without is not None else ""
    return f"{group.verdict}{figures}: {', '.join(_shortened(group.beside))}"


def _shortened(beside: list[str]) -> Iterator[str]:
    """``transformers 5.24.0, 5.23.0``: a name that the one before has is not said again."""
    before = ""
    for one in beside:
        name, _, version = one.partition(" ")
        yield (version if name == before else one) or "alone"
        before = name


def _attribute(name: str, value: str | None) -> str:
    return f' {name}="{escape(value)}"' if value else ""


def _code(figure: str | None) -> str:
    return "not run" if figure is None else f"`` {figure} ``" if "`" in figure else f"`{figure}`"
