"""Installed for real into fresh environments: what arrives, what starts, and what is left behind.

Each environment sees the dependencies of this one through a folder of links, so that nothing is
downloaded, and hatchling, so that installers build without isolation.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import venv
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from test_wheel import ROOT, VERSION, build, environment, unpack

INSTALLERS = pytest.mark.parametrize("installer", ["pip", "uv"])
FINDERS = "import sys; print([getattr(f, '__name__', '') for f in sys.meta_path].count('zoo_hooks'))"
ACTIVATED = f"import zoo_hooks; zoo_hooks.activate(); {FINDERS}"


class Home:
    """A fresh virtual environment."""

    def __init__(self, folder: Path, dependencies: Path) -> None:
        venv.create(folder, symlinks=True)
        self.folder = folder
        self.dependencies = dependencies
        self.python = folder / "bin" / "python"
        (self.site,) = folder.glob("lib/python3*/site-packages")
        (self.site / "dependencies.pth").write_text(f"{dependencies}\n")

    def files(self) -> list[str]:
        """All that lies in site-packages and beside the interpreter."""
        return sorted(str(file) for place in (self.site, self.python.parent) for file in place.rglob("*"))

    def run(self, *command: object, check: bool = True, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the environment's own folder, which holds no zoo_hooks."""
        run = subprocess.run(
            [str(part) for part in command],
            cwd=self.folder,
            env=environment(**variables),
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert not check or run.returncode == 0, f"{run.stdout}\n{run.stderr}"
        return run

    def install(self, installer: str, *what: object) -> None:
        """Install without network, without a cache, and without settings of this machine."""
        if installer == "pip":
            command = ["pip", "--isolated", "--python", self.python, "install"]
        else:
            command = ["uv", "--no-config", "--offline", "--no-cache", "pip", "install"]
            command += ["--python", self.python, "--link-mode", "copy"]
        options = ["--no-index", "--no-deps", "--no-build-isolation"]
        self.run(sys.executable, "-m", *command, *options, *what)

    def uninstall(self, installer: str) -> None:
        if installer == "pip":
            command = ["pip", "--isolated", "--python", self.python, "uninstall", "--yes"]
        else:
            command = ["uv", "--no-config", "--offline", "--no-cache", "pip", "uninstall"]
            command += ["--python", self.python]
        self.run(sys.executable, "-m", *command, "zoo-hooks")

    def silent(self, *flags: str, **variables: str) -> str:
        """What a child prints that must write nothing to standard error."""
        run = self.run(self.python, *flags, **variables)
        assert run.stderr == ""
        return run.stdout.strip()


@pytest.fixture(scope="module")
def dependencies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with links to the run-time dependencies and to hatchling, as installed here."""
    folder = tmp_path_factory.mktemp("dependencies")
    todo = ["importlib-metadata", "packaging", "rich", "hatchling", "editables"]
    seen = set()
    while todo:
        name = canonicalize_name(todo.pop())
        if name in seen:
            continue
        seen.add(name)
        found = distribution(name)
        for top in {file.parts[0] for file in found.files} - {"..", "__pycache__"}:
            (folder / top).symlink_to(found.locate_file(top))
        requirements = [Requirement(line) for line in found.requires or ()]
        todo += [r.name for r in requirements if not r.marker or r.marker.evaluate({"extra": ""})]
    return folder


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, "wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked source archive: a tree to install from that tests may write to."""
    sdist = build(ROOT, "sdist", tmp_path_factory.mktemp("sdist"))
    return unpack(sdist, tmp_path_factory.mktemp("source"))


@pytest.fixture
def home(tmp_path: Path, dependencies: Path) -> Home:
    return Home(tmp_path / "home", dependencies)


@INSTALLERS
@pytest.mark.parametrize("editable", [False, True], ids=["wheel", "editable"])
def test_what_is_installed_starts_and_leaves_nothing_behind(home, wheel, source, installer, editable):
    """Installed, each start has the one finder in silence; uninstalled, every file is as before."""
    before = home.files()
    home.install(installer, *(["-e", source] if editable else [wheel]))

    assert (home.site / "zoo_hooks.pth").read_bytes() == (ROOT / "hooks.pth").read_bytes()
    assert (home.site / "zoo_hooks.start").read_bytes() == (ROOT / "hooks.start").read_bytes()
    assert (home.site / "zoo_hooks").exists() is not editable
    assert home.silent("-c", FINDERS) == "1"
    assert home.silent("-I", "-c", FINDERS) == "1"
    package = (source if editable else home.site) / "zoo_hooks" / "__init__.py"
    assert home.silent("-c", "import sys; print(sys.modules['zoo_hooks'].__file__)") == str(package)
    assert home.run(home.python.parent / "zoo-hooks", "--version").stdout == f"{VERSION}\n"

    home.uninstall(installer)

    assert home.files() == before
    assert home.silent("-c", FINDERS) == "0"
    assert home.silent("-c", "import importlib.util as u; print(u.find_spec('zoo_hooks'))") == "None"


@INSTALLERS
def test_installing_over_an_installation_leaves_one_finder(home, wheel, source, tmp_path, installer):
    """After an upgrade, a forced second installation, -e over a wheel and back: one finder, in silence."""
    before = home.files()
    older = tmp_path / "older"
    shutil.copytree(source, older)
    (older / "PKG-INFO").unlink()  # hatchling would take the version from it
    start = older / "zoo_hooks" / "__init__.py"
    start.write_text(start.read_text().replace(f'"{VERSION}"', '"0.0.1"'))
    again = "--force-reinstall" if installer == "pip" else "--reinstall"
    version = f"import zoo_hooks; print(zoo_hooks.__version__); {FINDERS}"

    home.install(installer, build(older, "wheel", tmp_path / "built"))
    assert home.silent("-c", version) == "0.0.1\n1"
    for step in ([wheel], [again, wheel], ["-e", source], [again, wheel]):
        home.install(installer, *step)
        assert home.silent("-c", version) == f"{VERSION}\n1", step

    home.uninstall(installer)
    assert home.files() == before


@INSTALLERS
def test_a_healthy_installation_is_not_explained(home, wheel, installer):
    """Where the start-up file runs, status and check have nothing to say about it."""
    home.install(installer, wheel)
    command = home.python.parent / "zoo-hooks"
    for run in (home.run(command, "status"), home.run(home.python, "-m", "zoo_hooks", "status")):
        assert "start" not in run.stdout
        assert run.stderr == ""
    assert json.loads(home.run(command, "status", "--json").stdout)["start_up"] is None
    assert home.run(command, "check").stderr == ""


def to_a_folder(installer):
    def arrange(home, wheel):
        folder = home.folder / "elsewhere"
        home.install(installer, "--target", folder, wheel)
        assert (folder / "zoo_hooks.pth").exists()
        return [], {"PYTHONPATH": str(folder)}

    return arrange


def deleted(home, wheel):
    home.install("uv", wheel)
    (home.site / "zoo_hooks.pth").unlink()
    return [], {}


def overwritten(home, wheel):
    home.install("uv", wheel)
    (home.site / "zoo_hooks.pth").write_text("import sys\n")
    return [], {}


def without_site(home, wheel):
    home.install("uv", wheel)
    return ["-S"], {"PYTHONPATH": f"{home.site}:{home.dependencies}"}


def zipped(home, wheel):
    archive = home.folder / "zoo.zip"
    shutil.copy(wheel, archive)
    return [], {"PYTHONPATH": str(archive)}


@pytest.mark.parametrize(
    ("arrange", "reason"),
    [
        pytest.param(to_a_folder("pip"), "there is no zoo_hooks.pth in", id="pip --target"),
        pytest.param(to_a_folder("uv"), "there is no zoo_hooks.pth in", id="uv --target"),
        pytest.param(deleted, "there is no zoo_hooks.pth in", id="deleted"),
        pytest.param(overwritten, "zoo_hooks.pth has been overwritten", id="overwritten"),
        pytest.param(without_site, "Python was started with -S", id="-S"),
        pytest.param(zipped, "there is no zoo_hooks.pth in", id="zip"),
    ],
)
def test_a_start_up_file_that_does_not_run_is_explained(home, wheel, arrange, reason):
    """Where no line runs at start, status says why and names the call, which installs the finder."""
    flags, variables = arrange(home, wheel)
    assert home.silent(*flags, "-c", FINDERS, **variables) == "0"

    run = home.run(home.python, *flags, "-m", "zoo_hooks", "status", **variables)
    assert reason in run.stderr
    assert "import zoo_hooks; zoo_hooks.activate()" in run.stderr
    told = json.loads(
        home.run(home.python, *flags, "-m", "zoo_hooks", "status", "--json", **variables).stdout
    )
    assert run.stderr == f"zoo-hooks: {told['start_up']}\n"

    assert home.silent(*flags, "-c", ACTIVATED, **variables) == "1"


def test_a_leftover_start_up_file_is_told_by_python_itself(home, wheel):
    """With the package deleted by hand, Python names file and line at every start, and runs on.

    A line that guards against this would not be one plain line; the words are those of ``site``.
    """
    home.install("uv", wheel)
    shutil.rmtree(home.site / "zoo_hooks")
    run = home.run(home.python, "-c", "print('runs on')")
    assert run.stdout == "runs on\n"
    assert "zoo_hooks.pth" in run.stderr
    assert "ModuleNotFoundError: No module named 'zoo_hooks'" in run.stderr


def test_check_compares_our_files_with_what_was_installed(home, wheel):
    """A file that was changed, and one that is gone, are named, and the check fails; else it says nothing."""
    home.install("uv", wheel)
    command = home.python.parent / "zoo-hooks"
    assert "reinstall" not in home.run(command, "check", check=False).stderr
    package = home.site / "zoo_hooks"
    (package / "ledger.py").write_text((package / "ledger.py").read_text() + "\n")
    (package / "patches" / "dill" / "free_rlock_restored_taken.py").unlink()
    run = home.run(command, "check", check=False)
    assert run.returncode == 1
    assert f"{package / 'ledger.py'} was changed after the installation; reinstall zoo-hooks" in run.stderr
    assert "free_rlock_restored_taken.py is missing; reinstall zoo-hooks" in run.stderr
