"""The types of the package: a patch, its verdicts, statuses and outcomes."""

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
"""The worst effect of a bug, worst first. A crash is an error or a hang: an effect that users notice."""
SEVERITIES: tuple[Severity, ...] = get_args(Severity)


class Verdict(enum.Enum):
    """What a probe says about the installed code."""

    AFFECTED = "affected"
    FIXED = "fixed"
    UNKNOWN = "unknown"


class Status(enum.Enum):
    """The status of a patch in this process."""

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
    """For probes: suppress the error by which a bug is known, and no other error.

    Upstreams rename parameters and move names, so a probe's own call may fail for another reason. Such an
    error must not count as the bug. So the error text has to contain ``words``. If these words are not
    specific to the bug, the error also has to be raised in the code of ``by`` itself. Any other error
    propagates, and the engine records UNKNOWN.
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
    """The result of a canary.

    ``value`` is shown in the unit that ``Patch.measures`` names. ``healthy`` says whether an upstream without
    the bug gives such a value.
    """

    value: float | str
    healthy: bool
    trace: str | None = None
    """The traceback, where another process raised what ``value`` says."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Patch:
    """One upstream bug and its repair. The docstring of its module is the case report.

    ``probe`` and ``repair`` get the target's module from ``sys.modules``. With ``when="before"`` they run
    before the body of the module, and the changes of the repair are undone as soon as the body has run.
    """

    module: str
    """Name of the module that holds this record: its ``__name__``."""
    title: str
    """The bug in one line."""
    severity: Severity
    """The worst effect that the case report describes."""
    guard: bool = False
    """True where the repair only stands ready, for what may never come: a package that fails to load, a file
    that leads outside. It is counted as a guard, and not said to have repaired anything."""
    targets: tuple[str, ...]
    """The modules whose import triggers the patch."""
    affects: tuple[str, ...]
    """Requirements (PEP 508) of the releases with the bug. Tested, but without effect at run time."""
    links: tuple[str, ...]
    """Upstream issues, pull requests or source lines. Empty if none is known."""
    measures: str
    """What the canary's figure is, with its unit and the expected value."""
    probe: Callable[[ModuleType], Verdict]
    repair: Callable[[ModuleType, Changes], None]
    canary: Callable[[], Figure]
    when: Literal["after", "before"] = "after"
    requires: tuple[str, ...] = ()
    """Other modules that must be imported first; until then the patch is PENDING."""
    symptoms: tuple[str, ...] = ()
    """Error texts, any of which identifies the bug. `` @ `` separates a text from frames that the traceback
    must have too: names of functions, or ends of file names. Empty if the bug raises no error."""
    behavioural: bool = True
    """False if the probe only reads source or signatures, which a repair does not change."""

    @property
    def id(self) -> str:
        """Upstream and bug, from the path of the file: ``transformers/cache-static-zero-shared``."""
        return f"{self.upstream}/{self.module.rpartition('.')[2].replace('_', '-')}"

    @property
    def upstream(self) -> str:
        """Import name of the package that is repaired."""
        return self.module.split(".")[-2]


@dataclass(frozen=True, eq=False)
class Outcome:
    """The outcome of one patch at one target."""

    patch: str
    """The patch's id."""
    target: str
    status: Status
    reason: str = ""
    """The reason for the status; may be empty."""
    error: BaseException | None = None
    late: bool = False
    """True if the target was imported before zoo-hooks could see it, and was repaired afterwards."""
    module: ModuleType | None = field(default=None, repr=False)
    changes: Changes | None = field(default=None, repr=False)
