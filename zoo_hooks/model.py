"""The words of the package: what a patch is, and what can become of it."""

from __future__ import annotations

import enum
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Literal, get_args

from zoo_hooks.changes import Changes

Severity = Literal["silent wrong result", "security", "crash", "memory"]
"""What a bug does at its worst, the worst first. A crash is whatever is seen: an error, or a hang."""
SEVERITIES: tuple[Severity, ...] = get_args(Severity)


class Verdict(enum.Enum):
    """What a probe says of the installed code."""

    AFFECTED = "affected"
    FIXED = "fixed"
    UNKNOWN = "unknown"


class Status(enum.Enum):
    """What became of a patch in this process."""

    PENDING = "pending"
    APPLIED = "applied"
    OVERWRITTEN = "overwritten"
    NOT_NEEDED = "not needed"
    UNKNOWN = "unknown"
    FAILED = "failed"
    SKIPPED = "skipped"
    DRY_RUN = "dry run"


@contextmanager
def symptom(kind: type[Exception], words: str, by: Callable[..., Any] | None = None) -> Iterator[None]:
    """For probes: end the block at the error by which a bug is known, and at no other.

    An upstream renames parameters, moves names, raises other errors: what a probe's own call has caused must
    not pass for the bug. So the error has to hold these words of the bug's own and, where they could be
    anybody's, to be raised in the code of ``by`` itself. Any other goes on, and the engine takes it for
    UNKNOWN.
    """
    try:
        yield
    except kind as error:
        trace = error.__traceback__
        while trace and trace.tb_next:
            trace = trace.tb_next
        elsewhere = (
            by and trace and trace.tb_frame.f_code is not getattr(inspect.unwrap(by), "__code__", None)
        )
        if words not in str(error) or elsewhere:
            raise


@dataclass(frozen=True)
class Figure:
    """What a canary saw.

    ``value`` is shown in the unit that ``Patch.measures`` names; ``healthy`` says whether a right
    upstream gives such a value.
    """

    value: float | str
    healthy: bool


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Patch:
    """One upstream bug and its repair. Its module's docstring is the case report.

    ``probe`` and ``repair`` are handed the target's module as it stands in ``sys.modules``; with
    ``when="before"`` the module's body has not run yet, and what the repair changes is undone as
    soon as it has.
    """

    module: str
    """Name of the module that holds this record, ``__name__`` there."""
    title: str
    """The bug in one line."""
    severity: Severity
    """The worst that its case report tells of."""
    guard: bool = False
    """True where the repair only stands ready, for what may never come: a package that fails to load, a file
    that leads outside. It is counted as a guard, and not said to have repaired anything."""
    targets: tuple[str, ...]
    """The modules whose import triggers the patch."""
    affects: tuple[str, ...]
    """Requirements (PEP 508) of the releases with the bug: a claim that is tested, never a gate."""
    links: tuple[str, ...]
    """Upstream issues, pull requests or source lines. Empty where none is known."""
    measures: str
    """What the canary's figure is, with its unit and the value of a right upstream."""
    probe: Callable[[ModuleType], Verdict]
    repair: Callable[[ModuleType, Changes], None]
    canary: Callable[[], Figure]
    when: Literal["after", "before"] = "after"
    requires: tuple[str, ...] = ()
    """Modules that must have been imported too; until then the patch is PENDING."""
    symptoms: tuple[str, ...] = ()
    """Words of the bug's own error, one of which tells it. `` @ `` parts them from frames that it needs too:
    names of functions, or ends of file names. Empty where nothing is raised."""
    behavioural: bool = True
    """False where the probe reads only source or signatures, which a repair does not change."""

    @property
    def id(self) -> str:
        """Upstream and bug, as the file lies: ``transformers/cache-static-zero-shared``."""
        return f"{self.upstream}/{self.module.rpartition('.')[2].replace('_', '-')}"

    @property
    def upstream(self) -> str:
        """Import name of the package that is repaired."""
        return self.module.split(".")[-2]


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of one patch at one target."""

    patch: str
    """The patch's id."""
    target: str
    status: Status
    reason: str = ""
    """Why, in a sentence; empty where the status says it all."""
    error: BaseException | None = None
    late: bool = False
    """True if the target was imported before zoo-hooks could see it, and was repaired afterwards."""
    module: ModuleType | None = field(default=None, repr=False)
    changes: Changes | None = field(default=None, repr=False)
