"""Child interpreters, fake upstreams for tests of the engine, and what was seen on the real ones."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import hypothesis
import pytest
from packaging.utils import canonicalize_name

from zoo_hooks import catalogue, releases
from zoo_hooks.model import Patch
from zoo_hooks.releases import version as version_of
from zoo_hooks.tool import atlas, audit, survey

HERE = Path(__file__).parent
hypothesis.settings.register_profile("untimed", deadline=None)  # machines are busy
hypothesis.settings.load_profile("untimed")
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell starts in the background
ATLAS = atlas.read()
"""What was measured on real releases: the one place where verdicts stand."""

PATCH = '''
"""A fake bug.

Symptom
-------
``value`` is 1.

Cause
-----
It was made so.

Repair
------
It is set to 2.
"""

from zoo_hooks.model import Figure, Patch, Verdict


def probe(module):
    return Verdict.AFFECTED if module.value == 1 else Verdict.FIXED


def repair(module, changes):
    changes.replace(module, "value", 2)


def canary():
    import importlib

    value = importlib.import_module(PATCH.targets[0]).value
    return Figure(value, healthy=value == 2)


PATCH = Patch(
    module=__name__,
    title="value is 1",
    severity="crash",
    targets=({target!r},),
    affects=("{upstream}<2",),
    links=("https://example.org/1",),
    measures="the value (expected: 2)",
    probe=probe,
    repair=repair,
    canary=canary,
    {more}
)
'''


class Zoo:
    """A folder with fake upstreams and the patches for them, and children that see both."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.targets: dict[str, str] = {}
        self.before: set[str] = set()

    def module(self, name: str, source: str = "value = 1\n", *, package: bool = False) -> Path:
        """Write a module, and packages around it where there are none."""
        parts = name.split(".")
        here = self.folder / "site"
        for part in parts[:-1]:
            here /= part
            here.mkdir(parents=True, exist_ok=True)
            (here / "__init__.py").touch()
        file = here / parts[-1] / "__init__.py" if package else here / f"{parts[-1]}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(source))
        return file

    def patch(self, target: str, name: str = "bug", source: str | None = None, more: str = "") -> str:
        """Write a patch for a target; by default one that finds value == 1 and sets it to 2."""
        upstream = target.partition(".")[0]
        file = self.folder / "patches" / upstream / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        (file.parent / "__init__.py").touch()
        if source is None:
            source = PATCH.format(target=target, upstream=upstream, more=more)
        file.write_text(textwrap.dedent(source))
        self.targets[target] = f"{self.targets.get(target, '')} {name}"
        if 'when="before"' in source:
            self.before.add(target)
        return f"{upstream}/{name.replace('_', '-')}"

    @property
    def preamble(self) -> str:
        """What makes the fakes known in a process that has the finder."""
        return textwrap.dedent(f"""
            import sys
            sys.path.insert(0, {str(self.folder / "site")!r})
            import zoo_hooks
            for target in {list(self.targets)!r}:
                root = target.partition(".")[0]
                zoo_hooks.TARGETS[root] = zoo_hooks.TARGETS.get(root, "") + " " + target + " "
            zoo_hooks.BEFORE |= {self.before!r}
            import zoo_hooks.patches, zoo_hooks.targets
            zoo_hooks.targets.PATCHES |= {self.targets!r}
            zoo_hooks.patches.__path__.append({str(self.folder / "patches")!r})
        """)

    def run(self, code: str, *flags: str, **variables: str) -> str:
        """Run code in a child that knows the fakes; returns what it printed."""
        return python(self.preamble + textwrap.dedent(code), *flags, **variables)


def python(code: str, *flags: str, **variables: str) -> str:
    """Run code in a child interpreter that must end well; returns its standard output."""
    return child(code, *flags, **variables).stdout


def child(
    code: str, *flags: str, check: bool = True, timeout: float = 300, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run code in a child interpreter. Variables are added to the environment."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ZOO_HOOKS")}
    run = subprocess.run(
        [sys.executable, *flags, "-c", textwrap.dedent(code)],
        env=environment | variables,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert not check or run.returncode == 0, f"exit status {run.returncode}\n{run.stdout}\n{run.stderr}"
    return run


@pytest.fixture
def zoo(tmp_path: Path) -> Zoo:
    """Fake upstreams, and children in which they and their patches are known."""
    return Zoo(tmp_path)


def seen(patch: Patch) -> Iterator[tuple[dict[str, str], str]]:
    """The releases on which a patch was looked at, as {name: version}, each time with its verdict."""
    for row in ATLAS.of(patch.id):
        yield row.releases, row.verdict


def is_recorded(patch: Patch) -> bool:
    """Tell whether just the releases that are installed were measured."""
    return any(
        all(installed(name) == version for name, version in beside.items()) for beside, _ in seen(patch)
    )


def recorded(patch_id: str) -> str:
    """The verdict recorded for the releases that are installed, or that of the claim where none is.

    It is ABSENT if another upstream whose modules are targets has none of the code.
    """
    patch = catalogue.get(patch_id)
    if not is_recorded(patch):
        versions = {
            canonicalize_name(name): installed(name) or "0" for name in releases.claimed_upstreams(patch)
        }
        claimed_here = audit.claims(patch, versions | {"python": platform.python_version()})
        return "ABSENT" if not any(map(exists, patch.targets)) else "AFFECTED" if claimed_here else "FIXED"
    elsewhere = [name for name in patch.targets if name.partition(".")[0] != patch.upstream]
    if not all(exists(name) for name in elsewhere):
        return "ABSENT"
    for beside, verdict in sorted(
        seen(patch), key=lambda row: -len(row[0])
    ):  # a pair before one of them alone
        if all(installed(name) == version for name, version in beside.items()):
            return verdict
    raise LookupError(f"no verdict of {patch_id} is recorded for the releases that are installed")


def installed(name: str) -> str | None:
    """Version of a distribution, without what says for which machine it was built, or of the interpreter."""
    if name == "python":
        return platform.python_version()
    return (version_of(name) or "").partition("+")[0] or None


def exists(module: str) -> bool:
    """Tell whether a module, or package, can be found; its parents are imported for that."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


@pytest.fixture(scope="session")
def chosen(request):
    """The patches that tests of this session are about, in the order in which they are."""
    asked = (getattr(item, "callspec", None) for item in request.session.items)
    params = (call.params.get("patch") for call in asked if call)
    return list(dict.fromkeys(patch for patch in params if isinstance(patch, Patch)))


@pytest.fixture(scope="session")
def measured(chosen):
    """The rows that ``zoo-hooks verify`` shows, by patch; all that are asked for are measured together."""
    rows = {}

    def measure(patch_id: str) -> dict[str, str]:
        if patch_id not in rows:
            patch = catalogue.get(patch_id)
            some = [one for one in chosen if claimed(one)] if patch in chosen else [patch]
            rows.update((row["id"], row) for row in survey.verify(some))
        return rows[patch_id]

    return measure


def claimed(patch: Patch) -> bool:
    """Tell whether all upstreams that a patch is about are installed."""
    return all(find_spec(name.replace("-", "_")) for name in releases.claimed_upstreams(patch))


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--affected``: of the patches' test files only those of the bugs that are here."""
    parser.addoption("--affected", action="store_true", help="leave out patches that do nothing here")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Tests of a patch are part of the environments that have its upstream, those of trackers likewise."""
    upstream = collection_path.parent.name
    patch_id = f"{upstream}/{collection_path.stem.removeprefix('test_').replace('_', '-')}"
    if config.getoption("--affected") and collection_path.is_file() and patch_id in catalogue.ids():
        patch = catalogue.get(patch_id)
        return (claimed(patch) and recorded(patch_id) != "AFFECTED") or None
    upstream = collection_path.name
    if upstream == "trackers":
        return not find_spec("wandb") or None
    return (collection_path.parent == HERE / "patches" and collection_path.is_dir()
            and upstream in catalogue.upstreams() and not find_spec(upstream)) or None  # fmt: skip
