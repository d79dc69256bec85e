"""The commands that look at the environment and import no upstream: env, doctor."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import zoo_hooks
from zoo_hooks.tool import NOT_HERE, atlas, audit, installation, requirements, terminal
from zoo_hooks.tool.pins import Unreadable

SECONDS = 60  # for another interpreter to answer
LOOK = (
    NOT_HERE
    + """
import json
try:
    from zoo_hooks.tool import installation
except ModuleNotFoundError:
    print(json.dumps(None))
else:
    print(json.dumps(installation.look()))
"""
)
SETTINGS = ("ZOO_HOOKS", "ZOO_HOOKS_STRICT", "ZOO_HOOKS_LOG")


def add(commands: Any) -> None:
    """Add the commands to the parser."""
    does = "print versions, settings and repairs, to paste into an issue"
    command = commands.add_parser("env", help=does, description=does)
    command.add_argument("--json", action="store_true", help="print JSON instead of text")
    command.set_defaults(run=_env)
    does = "say whether zoo-hooks is active in an interpreter or process, and if not, why"
    command = commands.add_parser("doctor", help=does, description=does)
    command.add_argument("--json", action="store_true", help="print JSON instead of text")
    which = command.add_mutually_exclusive_group()
    which.add_argument("--python", metavar="OTHER", help="check this interpreter instead")
    which.add_argument("--pid", type=int, help="check this running process, without touching it (Linux)")
    command.set_defaults(run=_doctor)


def _env(options: argparse.Namespace) -> int:
    measured = atlas.read()
    asked = requirements.asked([], [], audit.known(measured))
    trouble = installation.start_up_trouble()
    answer = audit.audit(asked, measured, trouble)
    versions = asked.versions
    found: dict[str, Any] = {
        "zoo_hooks": zoo_hooks.__version__,
        "active": trouble or "yes",
        "platform": platform.platform(),
        "settings": {name: os.environ[name] for name in SETTINGS if name in os.environ},
        "versions": versions,
        "repaired": [one.patch.id for one in answer.findings if not one.trouble],
        "left": {one.patch.id: one.trouble for one in answer.left},
    }
    if options.json:
        terminal.show_json(found)
        return 0
    print(f"zoo-hooks {zoo_hooks.__version__}: {trouble or 'active'}")
    print(f"Python {versions['python']} on {found['platform']}")
    for name in SETTINGS:
        print(f"{name}: {os.environ.get(name, 'not set')}")
    for name, version in sorted(versions.items()):
        if name not in ("python", "zoo-hooks"):
            print(f"{name} {version}")
    print(f"repaired, by what was measured on these releases: {', '.join(found['repaired']) or 'nothing'}")
    for patch_id, why in found["left"].items():
        print(f"not repaired: {patch_id}: {why}")
    return 0


@dataclass
class _Process:
    """What Linux shows of a process without touching it."""

    command: list[str]
    environ: dict[str, str]
    began: datetime


def _doctor(options: argparse.Namespace) -> int:
    if options.pid:
        found, where = _of_process(options.pid), f"process {options.pid}"
    elif options.python:
        found, where = _of_python(options.python, dict(os.environ)), options.python
    else:
        found, where = installation.look(), "this Python"
    if found is None:
        found = {
            "trouble": f"zoo-hooks is not installed in the environment of {where}",
            "damaged": [],
            "starts": [],
        }
    if options.json:
        terminal.show_json({"active": not found["trouble"], **found})
    else:
        print(f"{where}: {found['trouble'] or 'zoo-hooks is active'}")
        for line in found["damaged"]:
            print(f"damaged: {line}")
        if not found["damaged"] and "version" in found:
            print(f"zoo-hooks {found['version']}: all files are as they were installed")
        print(f"\nfiles that run code at each start of that Python: {len(found['starts'])}")
        for file in found["starts"]:
            print(f"  {file}")
    return 1 if found["trouble"] or found["damaged"] else 0


def _of_python(python: str, environ: dict[str, str]) -> dict[str, Any] | None:
    try:
        done = subprocess.run(
            [python, "-c", LOOK], env=environ, capture_output=True, text=True, timeout=SECONDS, check=True
        )
        found: dict[str, Any] | None = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise Unreadable(f"{python} does not answer: {error}") from None
    return found


def _of_process(pid: int) -> dict[str, Any] | None:
    """The answer of a process's interpreter, with the settings that the process was started with."""
    process = _process(pid)
    found = _of_python(process.command[0], process.environ)
    if found is None:
        return None
    flags = [word for word in process.command[1:3] if word.startswith("-") and set(word) & set("S")]
    newer = [
        file
        for file in found["starts"]
        if Path(file).name == "zoo_hooks.pth"
        and datetime.fromtimestamp(Path(file).stat().st_mtime, tz=timezone.utc) > process.began
    ]
    if flags:
        found["trouble"] = f"it was started with {flags[0]}, so it reads no .pth files"
    elif newer:
        found["trouble"] = "it was running before zoo-hooks was installed; restart it"
    return found


def _process(pid: int) -> _Process:
    folder = Path("/proc", str(pid))
    try:
        command = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
        environ = (folder / "environ").read_bytes().decode(errors="replace").split("\0")
        began = datetime.fromtimestamp(folder.stat().st_mtime, tz=timezone.utc)
        program = folder.joinpath("exe").readlink()
    except OSError as error:
        raise Unreadable(f"process {pid} cannot be inspected: {error.strerror}") from None
    if "python" not in program.name:
        raise Unreadable(f"process {pid} runs {program}, which is not Python")
    if not Path(command[0]).is_absolute():
        command[0] = str(program)
    return _Process(command, dict(item.split("=", 1) for item in environ if "=" in item), began)
