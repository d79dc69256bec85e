"""What patches do in this environment, found out in child processes, so that nothing leaks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Timer
from typing import Any

from zoo_hooks import releases, reports
from zoo_hooks.model import Patch
from zoo_hooks.tool import NOT_HERE

SECONDS = 900  # for one answer; a cold import of torch on a slow disk takes minutes
# Our own folder comes last, for zoo-hooks may be in the current one.
BEGIN = f"""{NOT_HERE}
sys.path.append({str(Path(__file__).parents[2])!r})
from zoo_hooks.tool.child import main
main(*sys.argv[1:])
"""

_running: set[subprocess.Popen[str]] = set()
_stopped = Event()


def statuses(
    upstreams: Iterable[str], wanted: Iterable[str] = ()
) -> Generator[tuple[list[dict[str, Any]], str | None], None, None]:
    """Rows of the report for each upstream, found by importing its targets in a child.

    With ids in ``wanted`` only their targets are imported. The second value is the error of importing the
    upstream itself, if there is one.
    """
    names = " ".join(wanted)

    def ask(upstream: str) -> tuple[list[dict[str, Any]], str | None]:
        for _, answer, died in _ask("statuses", [f"{upstream} {names}"]):
            if answer:
                trouble = answer["trouble"] and f"{upstream} cannot be imported: {answer['trouble']}"
                return answer["rows"], trouble
            trouble = f"the process that imported {upstream} died: {died}"
        rows = [row for row in reports.report().as_dict() if row["upstream"] == upstream]
        return [row | {"status": "UNKNOWN", "reason": trouble} for row in rows], trouble

    with ThreadPoolExecutor(os.cpu_count()) as pool, _children():
        yield from pool.map(ask, upstreams)


@contextmanager
def _children() -> Iterator[None]:
    """No child outlives the block, however it ends, and none is started afterwards."""
    _stopped.clear()
    try:
        yield
    except BaseException:
        _stopped.set()
        for child in list(_running):
            _kill(child)
        raise


def _kill(child: subprocess.Popen[str]) -> None:
    """Kill a child and its own children."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL) if hasattr(os, "killpg") else child.kill()


def verify(patches: Iterable[Patch]) -> Generator[dict[str, Any], None, None]:
    """Each patch's canary in two children, without and with the hooks.

    One child runs all canaries of its side. If a canary ends the child, another runs the rest.
    """
    known = {patch.id: patch for patch in patches}
    answers: SimpleQueue[tuple[str, str, dict[str, Any]]] = SimpleQueue()

    def ask(side: str) -> None:
        with tempfile.TemporaryDirectory() as own:  # where MLX writes kernels that the other child reads
            for patch_id, figure, trouble in _ask(side, list(known), TMPDIR=own):
                died = {"value": f"the process died: {trouble}", "healthy": False, "missing": None}
                answers.put((side, patch_id, figure or died))

    seen: dict[str, dict[str, dict[str, Any]]] = {"without": {}, "with": {}}
    with ThreadPoolExecutor(2) as pool, _children():
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
        "trace": without.get("trace"),
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
    """Each argument with its answer; or None and the last output, if the child died."""
    environment = os.environ | variables
    if task != "statuses":
        environment["ZOO_HOOKS"] = "0" if task == "without" else "1"
    waiting = list(arguments)
    while waiting and not _stopped.is_set():
        with (
            tempfile.TemporaryFile("w+", errors="replace") as said,
            subprocess.Popen(
                [sys.executable, "-c", BEGIN, task, *waiting],
                env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said, text=True,
                start_new_session=True,
            ) as child,
        ):  # fmt: skip
            _running.add(child)
            if _stopped.is_set():
                _kill(child)
            for line in _lines(child):
                argument, answer = json.loads(line)
                waiting.remove(argument)
                yield argument, answer, ""
            status = child.wait()
            _running.discard(child)
            if waiting and not _stopped.is_set():
                said.seek(0)
                words = said.read().strip().splitlines()
                trouble = f"exit status {status}" + (f", {words[-1]}" if words else "")
                yield waiting.pop(0), None, trouble


def _lines(child: subprocess.Popen[str]) -> Iterator[str]:
    assert child.stdout
    line = "first"
    while line:
        patience = Timer(SECONDS, _kill, [child])
        patience.start()
        line = child.stdout.readline()
        patience.cancel()
        if line:
            yield line
