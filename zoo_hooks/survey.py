"""Runs probes and canaries in child interpreters, so that nothing leaks from one into another.

``python -m zoo_hooks.survey FILE TASK [ARGUMENT ...]`` is such a child; it writes JSON to FILE.
"""

from __future__ import annotations

import json
import os
import site
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import zoo_hooks
from zoo_hooks import catalogue, ledger
from zoo_hooks.model import Patch

SECONDS = 900  # for one child; a cold import of torch on a slow disk takes minutes


def statuses(upstreams: Iterable[str]) -> Iterator[list[dict[str, Any]]]:
    """Rows of the report for each upstream, found by importing its targets in a child."""
    tasks = [("statuses", upstream) for upstream in upstreams]
    for (_, upstream), (result, trouble) in zip(tasks, _children(tasks), strict=True):
        rows = result or [
            row | {"status": "UNKNOWN", "reason": f"the child that imported it died: {trouble}"}
            for row in ledger.report().as_dict()
            if row["upstream"] == upstream
        ]
        yield rows


def verify(patches: Iterable[Patch]) -> Iterator[dict[str, Any]]:
    """Each patch's canary without and with the hooks, each in a child of its own."""
    patches = list(patches)
    tasks = [(task, patch.id) for patch in patches for task in ("without", "with")]
    results = _children(tasks)
    for patch in patches:
        without, with_hooks = (
            result or {"value": f"the child died: {trouble}", "healthy": False, "missing": None}
            for result, trouble in (next(results), next(results))
        )
        yield {
            "id": patch.id,
            "upstream": patch.upstream,
            "version": ledger.version(patch.upstream),
            "measures": patch.measures,
            "without": without["value"],
            "with": with_hooks["value"],
            "status": with_hooks.get("status"),
            "result": _judge(without, with_hooks),
        }


def start_up_trouble() -> str | None:
    """Say why user code in this environment is not repaired by itself; None if it is."""
    if zoo_hooks.switched_off():
        return "ZOO_HOOKS switches everything off in this shell"
    if zoo_hooks.installed():
        return None
    places = [Path(place) for place in [*site.getsitepackages(), site.getusersitepackages()]]
    files = [place / "zoo_hooks.pth" for place in places if (place / "zoo_hooks.pth").exists()]
    if sys.flags.no_site:
        why = "Python was started with -S, so it reads no .pth files"
    elif not files:
        why = (
            f"there is no zoo_hooks.pth in {' or '.join(map(str, places))}; pip install --target, "
            "zip files and copied packages have it where Python does not read it, or not at all"
        )
    elif any("zoo_hooks.init" in file.read_text(errors="replace") for file in files):
        why = f"{files[0]} is there, but Python did not run it"
    else:
        why = f"{files[0]} has been overwritten"
    return (
        f"user code is not repaired by itself: {why}. Reinstall zoo-hooks, or begin the script "
        "with: import zoo_hooks; zoo_hooks.activate()"
    )


def _judge(without: dict[str, Any], with_hooks: dict[str, Any]) -> str:
    if missing := without["missing"] or with_hooks["missing"]:
        return f"cannot run here: no module named {missing}"
    status = with_hooks.get("status")
    if not with_hooks["healthy"]:
        return "DOES NOT HOLD"
    if without["healthy"]:
        return "NO SYMPTOM" if status == "APPLIED" else "not needed"
    return "repaired" if status == "APPLIED" else "DOES NOT HOLD"


def _children(tasks: list[tuple[str, str]]) -> Iterator[tuple[Any, str]]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(_child, tasks)


def _child(task: tuple[str, str]) -> tuple[Any, str]:
    """Result of a task and, if the child brought none, the last line that it said."""
    environment = dict(os.environ)
    if task[0] == "without":
        environment["ZOO_HOOKS"] = "0"
    with tempfile.TemporaryDirectory(prefix="zoo-hooks-") as folder:
        file = Path(folder, "result.json")
        command = [sys.executable, "-m", "zoo_hooks.survey", str(file), *task]
        try:
            run = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            return None, f"no answer within {SECONDS} seconds"
        if file.exists():
            return json.loads(file.read_text()), ""
        said = run.stderr.strip().splitlines() or [f"exit status {run.returncode}"]
        return None, said[-1]


def _statuses(upstream: str) -> list[dict[str, Any]]:
    trouble = {}
    for patch in catalogue.everything():
        for target in patch.targets:
            if patch.upstream == upstream:
                try:
                    import_module(target)
                except Exception as error:  # noqa: BLE001 - an upstream may fail in any way; it is shown
                    trouble[patch.id] = f"importing {target} raises {type(error).__name__}: {error}"
    rows = [row for row in ledger.report().as_dict() if row["upstream"] == upstream]
    return [
        row | {"reason": trouble[row["id"]]} if row["status"] == "PENDING" and row["id"] in trouble else row
        for row in rows
    ]


def _canary(patch_id: str) -> dict[str, Any]:
    patch = catalogue.get(patch_id)
    missing = None
    try:
        figure = patch.canary()
        value, healthy = figure.value, figure.healthy
    except Exception as error:  # noqa: BLE001 - what the bug raises is the canary's figure
        value, healthy = f"{type(error).__name__}: {error}", False
        if isinstance(error, ModuleNotFoundError) and error.name and not _exists(error.name):
            missing = error.name
    status = ledger.report()[patch_id].status.name
    return {"value": value, "healthy": healthy, "missing": missing, "status": status}


def _exists(module: str) -> bool:
    return find_spec(module.partition(".")[0]) is not None


def main(file: str, task: str, argument: str) -> None:
    """Do one task, as a child."""
    tasks: dict[str, Callable[[str], Any]] = {
        "statuses": _statuses,
        "without": _canary,
        "with": _canary,
    }
    zoo_hooks.init()  # for installations whose start-up file does not run
    Path(file).write_text(json.dumps(tasks[task](argument)))


if __name__ == "__main__":
    main(*sys.argv[1:])
