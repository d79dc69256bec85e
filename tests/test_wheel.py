"""What is built: source archive and wheel file by file, the metadata, and the start-up files."""

from __future__ import annotations

import email
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from pkgutil import resolve_name

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import zoo_hooks

ROOT = Path(__file__).parent.parent
VERSION = zoo_hooks.__version__
WHEEL = f"zoo_hooks-{VERSION}-py3-none-any.whl"
SDIST = f"zoo_hooks-{VERSION}"
INFO = f"zoo_hooks-{VERSION}.dist-info"
STEERING = ("PYTHON", "PIP_", "UV_", "HATCH_", "ZOO_HOOKS", "COVERAGE_", "VIRTUAL_ENV", "SOURCE_DATE_EPOCH")


def environment(**variables: str) -> dict[str, str]:
    """The environment without what would change Python, the installers or the build; with variables."""
    return {name: value for name, value in os.environ.items() if not name.startswith(STEERING)} | variables


def build(source: Path, target: str, folder: Path) -> Path:
    """Build a folder's sdist or wheel with the hatchling that is installed here, without network."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder)]
    run = subprocess.run(
        command, cwd=source, env=environment(), capture_output=True, text=True, timeout=600, check=False
    )
    assert run.returncode == 0, run.stderr
    (built,) = folder.glob("*.whl" if target == "wheel" else "*.tar.gz")
    return built


def unpack(sdist: Path, folder: Path) -> Path:
    """Unpack an sdist; returns the one folder in it."""
    with tarfile.open(sdist) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # the first 3.10 and 3.11 have none
        archive.extractall(folder)
    (root,) = folder.iterdir()
    return root


def read_wheel(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def tree(*names: str) -> dict[str, bytes]:
    """The project's files under these names, but for those that .gitignore names."""
    patterns = [line.rstrip("/") for line in (ROOT / ".gitignore").read_text().split()]
    files = {}
    for name in names:
        for file in [ROOT / name, *(ROOT / name).rglob("*")]:
            path = PurePosixPath(file.relative_to(ROOT))
            spellings = [str(text) for place in (path, *path.parents) for text in (place, place.name)]
            if file.is_file() and not any(fnmatch(s, pattern) for s in spellings for pattern in patterns):
                files[str(path)] = file.read_bytes()
    return files


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, "sdist", tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, "wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> email.message.Message:
    return email.message_from_string(read_wheel(wheel)[f"{INFO}/METADATA"].decode())


def test_the_wheel_holds_the_package_and_the_start_up_files_only(wheel: Path):
    """The wheel is every module, the atlas and py.typed, the two start-up files at its root, and metadata."""
    shipped = {name: text for name, text in tree("zoo_hooks").items() if name.endswith((".py", ".json"))}
    shipped["zoo_hooks/py.typed"] = b""
    shipped["zoo_hooks.pth"] = (ROOT / "hooks.pth").read_bytes()
    shipped["zoo_hooks.start"] = (ROOT / "hooks.start").read_bytes()
    shipped[f"{INFO}/licenses/LICENSE"] = (ROOT / "LICENSE").read_bytes()
    written = {f"{INFO}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt")}

    contents = read_wheel(wheel)

    assert wheel.name == WHEEL
    assert contents.keys() == shipped.keys() | written
    assert {name: contents[name] for name in shipped} == shipped
    assert "zoo_hooks/__init__.py" in shipped


def test_the_sdist_holds_the_project(sdist: Path, tmp_path: Path):
    """The source archive is the package, its tests, docs, benchmarks and tools, and the files around them."""
    expected = tree(
        "zoo_hooks", "tests", "docs", "benchmarks", "atlas", "hooks.pth", "hooks.start", "pyproject.toml",
        "tox.ini", "toxfile.py", "hatch_build.py", "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE",
        ".gitignore",
    )  # fmt: skip

    root = unpack(sdist, tmp_path)
    contents = {
        file.relative_to(root).as_posix(): file.read_bytes() for file in root.rglob("*") if file.is_file()
    }

    assert root.name == SDIST
    assert contents.pop("PKG-INFO")
    assert contents.keys() == expected.keys()
    assert contents == expected


def test_a_wheel_from_the_sdist_is_the_same(sdist: Path, wheel: Path, tmp_path: Path):
    """The wheel built from the unpacked source archive equals the one built from the tree."""
    root = unpack(sdist, tmp_path / "unpacked")
    assert read_wheel(build(root, "wheel", tmp_path / "built")) == read_wheel(wheel)


def test_the_pth_file_is_one_plain_line():
    """hooks.pth is one short ASCII line, without what scanners take for hidden code."""
    content = (ROOT / "hooks.pth").read_bytes()
    line = content.decode("ascii")
    assert len(content) < 100
    assert line.startswith("import ")
    assert line.endswith("\n")
    assert len(line.splitlines()) == 1
    assert line.rstrip("\n").isprintable()
    assert not re.search("exec|eval|__import__|base64|compile", line, re.IGNORECASE)


def test_the_start_file_calls_what_the_pth_file_calls():
    """hooks.start is one module:callable line; it resolves, and stands for the line of hooks.pth."""
    content = (ROOT / "hooks.start").read_bytes().decode("utf-8")
    module, callable_name = re.fullmatch(r"([\w.]+):([\w.]+)\n", content).groups()
    assert callable(resolve_name(f"{module}:{callable_name}"))
    assert (ROOT / "hooks.pth").read_text() == f"import {module}; {module}.{callable_name}()\n"


def test_the_metadata_carries_name_version_and_licence(metadata: email.message.Message):
    """The metadata has the version of the package itself, the licence, and the Pythons it is for."""
    assert metadata["Name"] == "zoo-hooks"
    assert metadata["Version"] == VERSION
    assert VERSION != "0.0.0"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata.get_all("License-File") == ["LICENSE"]
    assert metadata["Requires-Python"] == ">=3.10"
    assert metadata.get_payload() == (ROOT / "README.md").read_text(encoding="utf-8")
    claimed = {c.rpartition(" ")[2] for c in metadata.get_all("Classifier") if re.search(r":: 3\.\d+$", c)}
    assert claimed == {"3.10", "3.11", "3.12", "3.13", "3.14"}
    assert SpecifierSet(metadata["Requires-Python"]).contains("3.10.0")


ADDRESS = "https://example.org/zoo"


@pytest.mark.parametrize("address", ["", ADDRESS, f"{ADDRESS}/"])
def test_all_links_are_made_of_one_address(address: str, sdist: Path, tmp_path: Path):
    """URLs, and the README's links to files, which lead nowhere on an index as they lie; none without it."""
    source = unpack(sdist, tmp_path / "source")
    settings = source / "pyproject.toml"
    text = settings.read_text(encoding="utf-8")
    assert text.count('address = ""') == 1
    settings.write_text(text.replace('address = ""', f'address = "{address}"'), encoding="utf-8")
    made = build(source, "wheel", tmp_path / "made")
    metadata = email.message_from_bytes(read_wheel(made)[f"{INFO}/METADATA"])
    urls = dict(line.split(", ") for line in metadata.get_all("Project-URL", []))
    linked = re.findall(r"\]\((.*?)\)", str(metadata.get_payload()))
    files = [
        link.removeprefix(f"{ADDRESS}/blob/main/") for link in linked if ":" not in link or ADDRESS in link
    ]
    assert "CHANGELOG.md" in files
    assert all((source / file).is_file() for file in files)
    if address:
        assert urls.keys() == {"Source", "Issues", "Documentation", "Changelog"}
        assert all(url.startswith(ADDRESS) and "//" not in url[8:] for url in [*urls.values()])
        assert all(link.startswith("https://") for link in linked)
    else:
        assert not urls


def test_three_libraries_are_required_and_upstreams_only_by_extras(metadata: email.message.Message):
    """Whoever asks for no extra gets importlib-metadata, packaging and rich; before Python 3.11 tomli too."""
    requirements = [Requirement(line) for line in metadata.get_all("Requires-Dist")]
    always = {r.name for r in requirements if not (r.marker and "extra" in str(r.marker))}
    assert always == {"importlib-metadata", "packaging", "rich", "tomli"}
    marked = [(r.name, str(r.marker)) for r in requirements if r.name in always and r.marker]
    assert marked == [("tomli", 'python_version < "3.11"')]
    extras = set(metadata.get_all("Provides-Extra"))
    for requirement in requirements:
        if requirement.name not in always:
            wanted_by = {extra for extra in extras if requirement.marker.evaluate({"extra": extra})}
            assert wanted_by, requirement
            assert not requirement.marker.evaluate({"extra": ""}), requirement


def test_the_command_is_zoo_hooks(wheel: Path):
    """The wheel brings one script, zoo-hooks, whose function exists, and the plugin of pytest."""
    points = read_wheel(wheel)[f"{INFO}/entry_points.txt"].decode()
    assert points.split() == [
        *("[console_scripts]", "zoo-hooks", "=", "zoo_hooks.tool.cli:main"),
        *("[pytest11]", "zoo-hooks", "=", "zoo_hooks.plugin"),
    ]
    assert callable(resolve_name("zoo_hooks.tool.cli:main"))
    assert callable(resolve_name("zoo_hooks.plugin").pytest_report_header)


def test_every_dependency_is_justified():
    """Each line of pyproject.toml that names a dependency says what for; extras say it once for all."""
    text = (ROOT / "pyproject.toml").read_text()
    groups = text.partition("[dependency-groups]\n")[2].partition("\n[")[0]
    arrays = re.findall(r"^(dependencies|requires) = \[(.*?)\](  #[^\n]*)?$", text, re.MULTILINE | re.DOTALL)
    arrays += re.findall(r"^([\w-]+) = \[(.*?)\](  #[^\n]*)?$", groups, re.MULTILINE | re.DOTALL)
    lines = {
        name: [line + comment for line in body.splitlines() if line.strip()] for name, body, comment in arrays
    }
    assert lines.keys() >= {"requires", "dependencies", "test"}
    assert len(arrays) == len(lines) == 2 + len(re.findall(r"^[\w-]+ = ", groups, re.MULTILINE))
    for line in [line for found in lines.values() for line in found if "include-group" not in line]:
        assert re.fullmatch(r' *"[^"]+",? +# \w.{5,}', line), f"what for? {line}"
    assert re.search(r"^\[project\.optional-dependencies\]  # \w.{5,}$", text, re.MULTILINE)
