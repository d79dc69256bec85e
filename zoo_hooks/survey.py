"""What patches do in this environment, found out in child interpreters, so that nothing leaks."""

from __future__ import annotations

import json
import os
import site
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from threading import Timer
from typing import Any

import zoo_hooks
from zoo_hooks import releases, reports
from zoo_hooks.model import Patch

SECONDS = 900  # for one answer; a cold import of torch on a slow disk takes minutes


def statuses(upstreams: Iterable[str]) -> Iterator[list[dict[str, Any]]]:
    """Rows of the report for each upstream, each found by importing its targets in a child."""

    def ask(upstream: str) -> list[dict[str, Any]]:
        ((_, rows, trouble),) = _ask("statuses", [upstream])
        return rows or [
            row | {"status": "UNKNOWN", "reason": f"the child that imported it died: {trouble}"}
            for row in reports.report().as_dict()
            if row["upstream"] == upstream
        ]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(ask, upstreams)


def verify(patches: Iterable[Patch]) -> Iterator[dict[str, Any]]:
    """Each patch's canary in two children, without and with the hooks.

    One child runs all canaries of its side; if one of them ends it, another goes on with the rest.
    """
    known = {patch.id: patch for patch in patches}
    answers: SimpleQueue[tuple[str, str, dict[str, Any]]] = SimpleQueue()

    def ask(side: str) -> None:
        with tempfile.TemporaryDirectory() as own:  # where MLX writes kernels that the other child reads
            for patch_id, figure, trouble in _ask(side, list(known), TMPDIR=own):
                died = {"value": f"the child died: {trouble}", "healthy": False, "missing": None}
                answers.put((side, patch_id, figure or died))

    seen: dict[str, dict[str, dict[str, Any]]] = {"without": {}, "with": {}}
    with ThreadPoolExecutor(2) as pool:
        sides = [pool.submit(ask, side) for side in seen]
        for _ in range(2 * len(known)):
            side, patch_id, figure = answers.get()
            seen[side][patch_id] = figure
            if patch_id in seen["without"] and patch_id in seen["with"]:
                yield _row(known[patch_id], seen["without"][patch_id], seen["with"][patch_id])
        for asked in sides:
            asked.result()


def _row(patch: Patch, without: dict[str, Any], with_hooks: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": patch.id,
        "upstream": patch.upstream,
        "version": releases.version(patch.upstream),
        "measures": patch.measures,
        "without": without["value"],
        "with": with_hooks["value"],
        "status": with_hooks.get("status"),
        "result": _judge(without, with_hooks),
    }


def _judge(without: dict[str, Any], with_hooks: dict[str, Any]) -> str:
    if missing := without["missing"] or with_hooks["missing"]:
        return f"cannot run here: no module named {missing}"
    status = with_hooks.get("status")
    if not with_hooks["healthy"]:
        return "DOES NOT HOLD"
    if without["healthy"]:
        return "NO SYMPTOM" if status == "APPLIED" else "not needed"
    if status == "APPLIED":
        return "repaired"
    return "repaired by another patch" if status == "NOT_NEEDED" else "DOES NOT HOLD"


def _ask(task: str, arguments: list[str], **variables: str) -> Iterator[tuple[str, Any, str]]:
    """Each argument with its answer or, where the child died of it, None and what it said last."""
    environment = os.environ | variables
    if task != "statuses":
        environment["ZOO_HOOKS"] = "0" if task == "without" else "1"
    waiting = list(arguments)
    while waiting:
        command = [sys.executable, "-m", "zoo_hooks.child", task, *waiting]
        with (
            tempfile.TemporaryFile("w+", errors="replace") as said,
            subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, stderr=said, text=True
            ) as child,
        ):
            assert child.stdout
            for line in _lines(child):
                argument, answer = json.loads(line)
                waiting.remove(argument)
                yield argument, answer, ""
            status = child.wait()
            if waiting:
                said.seek(0)
                words = said.read().strip().splitlines()
                trouble = f"exit status {status}" + (f", {words[-1]}" if words else "")
                yield waiting.pop(0), None, trouble


def _lines(child: subprocess.Popen[str]) -> Iterator[str]:
    assert child.stdout
    line = "first"
    while line:
        patience = Timer(SECONDS, child.kill)
        patience.start()
        line = child.stdout.readline()
        patience.cancel()
        if line:
            yield line


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
