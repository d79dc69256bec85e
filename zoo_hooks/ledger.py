"""The outcomes of the patches in this process."""

from __future__ import annotations

from zoo_hooks.model import Outcome, Patch, Verdict
from zoo_hooks.safety import pass_on

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


def anything() -> bool:
    """Tell whether any patch has an outcome in this process."""
    return bool(_outcomes)


def in_force(patch: Patch, outcome: Outcome) -> bool:
    """Tell whether an applied repair is still active, even if other code has changed its places since."""
    if outcome.changes is None or outcome.module is None or outcome.changes.in_place:
        return True
    try:
        verdict = Verdict(patch.probe(outcome.module)) if patch.behavioural else Verdict.UNKNOWN
        if verdict is not Verdict.UNKNOWN:
            return verdict is Verdict.FIXED
    except BaseException as error:  # as the engine does
        pass_on(error)
    return outcome.changes.within_reach
