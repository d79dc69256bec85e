"""Which repairs are active in this process, for the logs of an experiment."""

from __future__ import annotations

import sys
from typing import Any

import zoo_hooks
from zoo_hooks import catalogue, ledger, notices, settings
from zoo_hooks.model import Patch, Status
from zoo_hooks.releases import claimed_upstreams, version
from zoo_hooks.reports import status_of


def fingerprint() -> str:
    """Return one word that identifies the active repairs, for experiment logs.

    It consists of the version of zoo-hooks and 16 hexadecimal digits, such as ``0.1.0-5bd1c0ffee5bd1c0``. The
    digits are equal in all processes that apply the same repairs to the same versions of the libraries. If no
    repair is applied, ``off``, ``dry-run`` or ``nothing-applied`` takes the place of the digits. With
    ``nothing-applied`` a warning is logged if no library with a patch has been imported yet.
    """
    applied = [
        [patch.id, [[name, version(name)] for name in sorted(claimed_upstreams(patch))]]
        for patch in _applied()
    ]
    return f"{zoo_hooks.__version__}-{_digest(applied) if applied else _why_none()}"


def _digest(applied: list[Any]) -> str:
    import hashlib
    import json

    return hashlib.sha256(json.dumps(applied).encode()).hexdigest()[:16]


def _why_none() -> str:
    if mode() != "on":
        return mode()
    if not ledger.anything():
        notices.say(
            notices.WARNING,
            "zoo-hooks: fingerprint() was called before any library with a patch was imported, so it "
            "names no repair; call it after the imports",
        )
    return "nothing-applied"


def config() -> dict[str, str]:
    """Return the active repairs as the configuration of a run.

    The keys begin with ``zoo_hooks_``: ``version``, ``mode`` (``on``, ``dry-run`` or ``off``), ``applied``
    (ids separated by commas) and ``fingerprint``. For ``wandb.config.update``, ``mlflow.log_params``,
    and TensorBoard's ``add_hparams``. Call it after the imports.
    """
    return {
        "zoo_hooks_version": zoo_hooks.__version__,
        "zoo_hooks_mode": mode(),
        "zoo_hooks_applied": ", ".join(patch.id for patch in _applied()),
        "zoo_hooks_fingerprint": fingerprint(),
    }


def mode() -> str:
    """What ``ZOO_HOOKS`` asks for: ``on``, ``dry-run`` or ``off``."""
    current = settings.read()
    return "off" if current.off else "dry-run" if current.dry_run else "on"


def line() -> str:
    """One line: how many repairs are active in this process, and in which libraries."""
    applied = _applied()
    names = sorted({patch.upstream for patch in applied})
    where = ", ".join(f"{name} {version(name) or ''}".rstrip() for name in names)
    guards = sum(patch.guard for patch in applied)
    count = f"{len(applied) - guards} repair{'' if len(applied) - guards == 1 else 's'} active"
    count += f" and {guards} guard{'' if guards == 1 else 's'}" if guards else ""
    off = "" if mode() == "on" else f" (ZOO_HOOKS: {mode()})"
    return f"zoo-hooks {zoo_hooks.__version__}: {count}{' in ' * bool(where)}{where}{off}"


def log() -> None:
    """Write this line to standard error now. ``ZOO_HOOKS_LOG=1`` writes it when the process ends."""
    sys.stderr.write(f"{line()}\n")


def _applied() -> list[Patch]:
    return [
        patch
        for patch in catalogue.everything()
        if any(status_of(patch, outcome)[0] is Status.APPLIED for outcome in ledger.of_patch(patch.id))
    ]
