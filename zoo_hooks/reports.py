"""The report on the patches in this process. The engine does not need it; it is imported on request."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from zoo_hooks import catalogue, notices, settings
from zoo_hooks.ledger import in_force, of_patch
from zoo_hooks.model import Outcome, Patch, Status
from zoo_hooks.releases import claimed_upstreams, fixed_in, version

# What a patch with several targets is said to be: the first of these that any of them has.
_WEIGHT = (
    Status.FAILED,
    Status.UNKNOWN,
    Status.OVERWRITTEN,
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
    fixed_in: tuple[str, ...] = ()
    """Requirements, each of which fixes the bug by itself; empty if no release is known to."""
    guard: bool = False
    """True where a repair that is APPLIED only stands ready (see ``Patch.guard``)."""
    missing: tuple[str, ...] = ()
    """Distributions that are involved in the bug and are not installed."""

    def as_dict(self) -> dict[str, Any]:
        """The row as in the JSON."""
        lists = {"fixed_in": list(self.fixed_in), "missing": list(self.missing)}
        return {**vars(self), "status": self.status.name, **lists}


@dataclass(frozen=True)
class Report:
    """The status of every patch in this process: a sequence of rows that prints as summary and table."""

    rows: tuple[Row, ...]

    def __getitem__(self, patch_id: str) -> Row:
        wanted = catalogue.named(patch_id)
        for row in self.rows:
            if [row.id] == wanted:
                return row
        raise catalogue.UnknownPatch(f"{patch_id!r} is not in this report")

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def as_dict(self) -> list[dict[str, Any]]:
        """The rows as in the JSON."""
        return [row.as_dict() for row in self.rows]

    def summary(self) -> str:
        """The report in one line: how many patches are applied, not needed, or failed."""
        from zoo_hooks import render

        return render.summary(self.as_dict())

    def _shown(self) -> list[dict[str, Any]]:
        from zoo_hooks import render

        return [row for row in self.as_dict() if render.is_shown(row)]

    def __str__(self) -> str:
        from zoo_hooks import render

        shown = self._shown()
        return "\n\n".join([self.summary(), *([render.text(render.statuses(shown))] if shown else [])])

    def _repr_html_(self) -> str:
        from zoo_hooks import render

        links = {patch.id: patch.links[0] for patch in catalogue.everything() if patch.links}
        return render.html(self.summary(), render.statuses(self._shown()), links)


def report() -> Report:
    """Return the status of each patch in this process, with the installed versions."""
    notices.flush()
    current = settings.read()
    rows = [row(patch, current) for patch in catalogue.everything()]
    rows += [
        Row(patch_id, catalogue.ids()[patch_id].split(".")[-2], None, Status.FAILED,
            f"the patch cannot be imported: {error!r}", "", late=False)
        for patch_id, error in catalogue.broken.items()
    ]  # fmt: skip
    return Report(tuple(sorted(rows, key=lambda row: (row.upstream, row.id))))


def row(patch: Patch, current: settings.Settings) -> Row:
    """Return the status of one patch under these settings."""
    installed = version(patch.upstream)
    outcomes = [outcome for outcome in of_patch(patch.id) if outcome.status is not Status.PENDING]
    if outcomes:
        found = [status_of(patch, outcome) for outcome in outcomes]
        status, reason = min(found, key=lambda pair: _WEIGHT.index(pair[0]))
    elif refusal := current.refusal(patch.id):
        status, reason = Status.SKIPPED, refusal
    else:
        status, reason = Status.PENDING, _waits_for(patch, installed)
    late = any(outcome.late for outcome in outcomes)
    missing = tuple(name for name in sorted(claimed_upstreams(patch)) if version(name) is None)
    return Row(
        patch.id,
        patch.upstream,
        installed,
        status,
        reason,
        patch.title,
        late,
        tuple(fixed_in(patch)),
        patch.guard,
        missing,
    )


def status_of(patch: Patch, outcome: Outcome) -> tuple[Status, str]:
    """The status of a patch at a target now, and why: other code may have changed its places since."""
    if outcome.status is Status.APPLIED and not in_force(patch, outcome):
        return Status.OVERWRITTEN, (
            "other code has replaced the repair, and the bug may be back; "
            "zoo_hooks.activate() applies the repair again"
        )
    return outcome.status, outcome.reason


def _waits_for(patch: Patch, installed: str | None) -> str:
    """Why a patch has not had its turn."""
    awaited = [name for name in patch.requires if name not in sys.modules]
    if any(target in sys.modules for target in patch.targets) and not awaited:
        if patch.when == "before":
            return "imported before zoo-hooks could see it; too late for this patch"
        return "imported before zoo-hooks could see it; zoo_hooks.activate() repairs it"
    if installed is None and patch.upstream not in sys.modules:
        return f"{patch.upstream} is not installed"
    if awaited and any(target in sys.modules for target in patch.targets):
        return f"waits for {' and '.join(awaited)}"
    return f"{patch.targets[0]} has not been imported"
