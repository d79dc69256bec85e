"""What happened to each patch in this process."""

from __future__ import annotations

from zoo_hooks.model import Outcome

_outcomes: dict[tuple[str, str], Outcome] = {}


def record(outcome: Outcome) -> Outcome:
    """Keep the newest outcome of a patch at a target."""
    _outcomes[outcome.patch, outcome.target] = outcome
    return outcome


def find(patch_id: str, target: str) -> Outcome | None:
    """The outcome of a patch at a target, if it has one yet."""
    return _outcomes.get((patch_id, target))


def of_patch(patch_id: str) -> list[Outcome]:
    """The outcomes of a patch at all its targets."""
    return [outcome for outcome in list(_outcomes.values()) if outcome.patch == patch_id]
