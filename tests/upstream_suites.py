"""Runs tests of an upstream without the hooks and with them: none may fail with them only.

    python tests/upstream_suites.py SDIST|- [PYTEST ARGUMENTS]

Pytest runs in the unpacked source distribution; files that it is given from elsewhere are put among the tests
there. What differs is run once more in both ways, lest a test that fails now and then is taken for one that
the hooks break.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
SEEN = "UPSTREAM_SUITES_SEEN"


def pytest_runtest_logreport(report):
    """In the child: note each test, and each of its subtests, with its outcome."""
    context = getattr(report, "context", None)  # of a subtest
    what = f" {context.msg or ''} {dict(context.kwargs) or ''}".rstrip() if context else ""
    with Path(os.environ[SEEN]).open("a", encoding="utf-8") as file:
        file.write(json.dumps([report.nodeid, what, report.outcome]) + "\n")


def outcomes(folder, arguments, hooks):
    """The tests that ran, and what failed of them, subtests by themselves."""
    seen = Path(folder, f"seen-{hooks}.json")
    seen.write_text("")
    environment = os.environ | {
        SEEN: str(seen), "ZOO_HOOKS": hooks, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")])),
    }  # fmt: skip
    own = ["-q", "-c", os.devnull, "-p", "no:cacheprovider", "-p", "upstream_suites", "-W", "ignore"]
    command = [sys.executable, "-m", "pytest", *own, "--rootdir", folder, "--tb=no", *arguments]
    run = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    assert run.returncode in (0, 1), f"pytest ended with {run.returncode}:\n{run.stdout}"
    print(f"ZOO_HOOKS={hooks}: {run.stdout.splitlines()[-1]}", flush=True)
    rows = [json.loads(line) for line in seen.read_text("utf-8").splitlines()]
    return {test for test, *_ in rows}, {test + what for test, what, outcome in rows if outcome == "failed"}


def lost(folder, arguments):
    """What fails with the hooks only, or is not even reached with them."""
    (ran, bad), (still, worse) = (outcomes(folder, arguments, hooks) for hooks in ("0", ""))
    assert ran, "no tests"
    return (worse - bad) | (ran - still)


def main(sdist, *arguments):
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if sdist != "-":  # else the tests are part of what is installed
            with tarfile.open(sdist) as archive:
                archive.extractall(folder, filter="data")
            (folder,) = folder.iterdir()
            Path(folder, "tests", "__init__.py").touch()
        arguments = [
            shutil.copy(given, folder / "tests") if Path(given).is_file() else given for given in arguments
        ]
        if found := lost(folder, arguments):
            kept = [given for given in arguments if given == "--pyargs"]
            found &= lost(folder, kept + sorted({test.partition(" ")[0] for test in found}))
    for test in sorted(found):
        print("fails with the hooks only:", test)
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
