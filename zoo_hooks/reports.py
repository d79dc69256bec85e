"""What is said of the patches in this process. The engine does without: it is imported when asked for."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from zoo_hooks import catalogue, settings
from zoo_hooks.ledger import of_patch
from zoo_hooks.model import Patch, Status
from zoo_hooks.releases import claimed_upstreams, retired_by, version

# What a patch with several targets is said to be: the first of these that any of them has.
_WEIGHT = (
    Status.FAILED,
    Status.UNKNOWN,
    Status.APPLIED,
    Status.DRY_RUN,
    Status.NOT_NEEDED,
    Status.SKIPPED,
    Status.PENDING,
)


@dataclass(frozen=True)
class Row:
    """One patch in a report."""

    id: str
    upstream: str
    version: str | None
    """Installed version of the upstream, None if it is not installed."""
    status: Status
    reason: str
    title: str
    late: bool
    retired_by: tuple[str, ...] = ()
    """Requirements each of which makes the patch needless by itself; none if no release is known."""

    def as_dict(self) -> dict[str, Any]:
        """The row as JSON knows it."""
        return {**vars(self), "status": self.status.name, "retired_by": list(self.retired_by)}


@dataclass(frozen=True)
class Report:
    """The state of every patch in this process; prints as a table, in notebooks as HTML."""

    rows: tuple[Row, ...]

    def __getitem__(self, patch_id: str) -> Row:
        for row in self.rows:
            if row.id == patch_id:
                return row
        catalogue.get(patch_id)
        raise catalogue.UnknownPatch(f"{patch_id!r} is not in this report")

    def as_dict(self) -> list[dict[str, Any]]:
        """The rows as JSON knows them."""
        return [row.as_dict() for row in self.rows]

    def __str__(self) -> str:
        from zoo_hooks import render

        return render.text(render.status_table(self.as_dict()))

    def _repr_html_(self) -> str:
        from zoo_hooks import render

        return render.html(render.status_table(self.as_dict()))


def report() -> Report:
    """Say what became of each patch in this process, with the versions installed."""
    current = settings.read()
    rows = [_row(patch, current) for patch in catalogue.everything()]
    rows += [
        Row(patch_id, catalogue.ids()[patch_id].split(".")[-2], None, Status.FAILED,
            f"the patch cannot be imported: {error!r}", "", late=False)
        for patch_id, error in catalogue.broken.items()
    ]  # fmt: skip
    return Report(tuple(sorted(rows, key=lambda row: (row.upstream, row.id))))


def fingerprint() -> str:
    """Digest of which patches are applied to which versions of their upstreams.

    16 hexadecimal digits, the same in every process with the same repairs; for experiment logs.
    """
    import hashlib
    import json

    applied = [
        [patch.id, [[name, version(name)] for name in sorted(claimed_upstreams(patch))]]
        for patch in catalogue.everything()
        if any(outcome.status is Status.APPLIED for outcome in of_patch(patch.id))
    ]
    return hashlib.sha256(json.dumps(applied).encode()).hexdigest()[:16]


def _row(patch: Patch, current: settings.Settings) -> Row:
    installed = version(patch.upstream)
    outcomes = of_patch(patch.id)
    if outcomes:
        chosen = min(outcomes, key=lambda outcome: _WEIGHT.index(outcome.status))
        status, reason = chosen.status, chosen.reason
    elif refusal := current.refusal(patch.id):
        status, reason = Status.SKIPPED, refusal
    elif any(target in sys.modules for target in patch.targets):
        status = Status.PENDING
        remedy = "zoo_hooks.activate() repairs it" if patch.when == "after" else "too late for this patch"
        reason = f"imported before zoo-hooks could see it; {remedy}"
    elif installed is None:
        status, reason = Status.PENDING, f"{patch.upstream} is not installed"
    else:
        status, reason = Status.PENDING, f"{patch.targets[0]} has not been imported"
    late = any(outcome.late for outcome in outcomes)
    return Row(
        patch.id, patch.upstream, installed, status, reason, patch.title, late, tuple(retired_by(patch))
    )
