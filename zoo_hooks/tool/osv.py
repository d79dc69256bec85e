"""Write the patches as records in the OSV format, for tools that read it: https://ossf.github.io/osv-schema."""

from __future__ import annotations

import datetime as dt
import json
import re
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.specifiers import Specifier
from packaging.version import Version

from zoo_hooks import catalogue
from zoo_hooks.model import Patch
from zoo_hooks.tool.atlas import Atlas

SCHEMA = "1.7.0"
PREFIX = "x_zoo-hooks-"
"""``x_`` is for databases that are not registered with OSV."""


def write(folder: Path, measured: Atlas) -> int:
    """Create the folder and write a file for each patch. Returns how many; OSError if that fails."""
    folder.mkdir(parents=True, exist_ok=True)
    patches = catalogue.everything()
    for patch in patches:
        found = record(patch, measured)
        (folder / f"{found['id']}.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return len(patches)


def record(patch: Patch, measured: Atlas) -> dict[str, Any]:
    """A patch as an OSV record.

    OSV cannot say that a bug needs two packages together. So the record is about the package that is
    repaired, and ``together_with`` names the releases of the others.
    """
    claims = {claim.name: claim for claim in map(Requirement, patch.affects)}
    own = claims.pop(patch.upstream.replace("_", "-"))
    rows = [row for row in measured.of(patch.id) if row.verdict == "AFFECTED"]
    days = sorted(row.date for row in rows if row.date)
    day = days[-1] if days else dt.datetime.now(dt.timezone.utc).date().isoformat()
    others = [*map(str, claims.values()), *([str(own.marker)] if own.marker else [])]
    case = catalogue.case_report(patch)
    return {
        "schema_version": SCHEMA,
        "id": PREFIX + patch.id.replace("/", "-").replace("_", "-"),
        "modified": f"{day}T00:00:00Z",
        "aliases": sorted(set(re.findall(r"CVE-\d{4}-\d{4,}", case))),
        "summary": patch.title,
        "details": case,
        "affected": [
            {
                "package": {"ecosystem": "PyPI", "name": own.name, "purl": f"pkg:pypi/{own.name}"},
                "ranges": [{"type": "ECOSYSTEM", "events": events} for events in ranges(own)],
                "versions": list(dict.fromkeys(row.releases[own.name] for row in rows)),
                "ecosystem_specific": {"together_with": others},
            }
        ],
        "references": [
            {"type": "REPORT" if "/issues/" in link else "WEB", "url": link} for link in patch.links
        ],
        "database_specific": {"severity": patch.severity, "patch": patch.id},
    }


def ranges(claim: Requirement) -> list[list[dict[str, str]]]:
    """The releases that a requirement allows, as events of ranges."""
    parts = list(claim.specifier)
    low = next((part.version for part in parts if part.operator == ">="), "0")
    last = next((part.version for part in parts if part.operator == "<="), None)
    end = next((part.version for part in parts if part.operator == "<"), None)
    found, begin = [], low
    for part in sorted((p for p in parts if p.operator == "!="), key=_first):
        gap = _first(part)
        if gap > Version(begin):
            found.append([{"introduced": begin}, {"fixed": str(gap)}])
        begin = _after(gap)
    if last is None and end is None:
        return [*found, [{"introduced": begin}]]
    return [*found, [{"introduced": begin}, {"last_affected": last} if last else {"fixed": str(end)}]]


def _first(part: Specifier) -> Version:
    """The first release that ``!=4.57.*`` leaves out."""
    return Version(part.version.removesuffix(".*"))


def _after(gap: Version) -> str:
    """The first release that it allows again."""
    *head, tail = gap.release
    return ".".join(map(str, [*head, tail + 1]))
