"""Which releases a requirements or lock file pins, and what is said of the rest."""

from __future__ import annotations

import json
import sys

import pytest
from conftest import HERE

from zoo_hooks.tool import atlas, audit, requirements
from zoo_hooks.tool.pins import Unreadable

LOCKS = HERE / "locks"
KNOWN = audit.known(atlas.read())


def asked(*files, words=(), python=None):
    return requirements.asked(words, [str(file) for file in files], KNOWN, python)


def pins(found):
    return {name: version for name, version in found.versions.items() if name != "python"}


@pytest.mark.parametrize(
    ("file", "expected", "left_out"),
    [
        (
            "uv-app/uv.lock",
            {"peft": "0.17.1", "torch": "2.9.1", "transformers": "5.5.0", "triton": "3.5.1"},
            [],
        ),
        ("uv-fork/uv.lock", {"transformers": "5.24.0", "trl": "0.26.2"}, []),
        (
            "uv-serve/uv.lock",
            {"trl": "0.24.0", "vllm": "0.12.0", "zoo-hooks": "0.1.0"},
            ["torch is locked to 2.9.1 and 2.8.0+cu128"],
        ),
        (
            "poetry-bot/poetry.lock",
            {"accelerate": "1.10.0", "multiprocess": "0.70.16", "transformers": "4.57.6"},
            [],
        ),
        ("poetry-old/poetry.lock", {"dill": "0.3.8", "transformers": "4.44.2"}, []),
        ("pylock-uv/pylock.toml", {"bitsandbytes": "0.48.0", "transformers": "5.10.1"}, []),
        (
            "pylock-groups/pylock.train.toml",
            {"peft": "0.19.1", "transformers": "5.9.0"},
            [":24: trl is not locked to a release"],
        ),
        (
            "pip-train/requirements.txt",
            {"torch": "2.9.1", "triton": "3.6.0", "datasets": "4.3.0", "peft": "0.19.1"},
            [
                ":5: transformers[torch]>=5.20 is not pinned to a release",
                ":11: -e . names no release",
                ":12: git+https://github.com/huggingface/trl.git@main names no release",
            ],
        ),
        (
            "pip-compile/requirements.txt",
            {"accelerate": "1.15.0", "dill": "0.4.0", "transformers": "5.23.0", "trl": "0.24.0"},
            [],
        ),
        (
            "pip-split/requirements.txt",
            {"peft": "0.19.1", "transformers": "5.6.2"},
            ["base.txt:4: accelerate~=1.0 is not pinned to a release"],
        ),
    ],
)
def test_each_kind_of_file_is_read(file, expected, left_out):
    """Markers, forks, default groups, nested files, constraints and hashes; what is not pinned is told of."""
    found = asked(LOCKS / file)
    assert pins(found) == expected
    assert len(found.notes) == len(left_out), found.notes
    assert all(any(words in note for note in found.notes) for words in left_out), found.notes


def test_a_pin_remembers_its_line():
    """For annotations: of two entries with one name that with the version."""
    found = asked(LOCKS / "uv-fork/uv.lock")
    lines = (LOCKS / "uv-fork/uv.lock").read_text(encoding="utf-8").splitlines()
    line = found.pins["transformers"].line
    assert lines[line - 1 : line + 1] == ['name = "transformers"', 'version = "5.24.0"']
    assert asked(LOCKS / "pip-train/requirements.txt").pins["peft"].line == 7


def test_words_are_pins_and_the_rest_is_told_of():
    """A range, a bare name, a package that nothing is known of; markers hold for words too."""
    words = ["transformers==5.24.0", "peft>=0.19", "trl", "foo==1", 'vllm==0.12.0; python_version < "3"']
    found = asked(words=words)
    assert pins(found) == {"transformers": "5.24.0"}
    assert found.notes == [
        "peft>=0.19 is not pinned to a release; left out",
        "trl is not pinned to a release; left out",
        "there is no data about foo; left out",
    ]


def test_a_word_that_ends_like_a_file_is_one():
    """``zoo-hooks audit uv.lock`` needs no option."""
    found = asked(words=[str(LOCKS / "uv-fork/uv.lock"), "peft==0.19.1"])
    assert pins(found) == {"transformers": "5.24.0", "trl": "0.26.2", "peft": "0.19.1"}
    assert not found.installed


def test_without_words_and_files_it_is_what_is_installed():
    """Of this interpreter, or of another one, which is asked in a child."""
    here, other = asked(), asked(python=sys.executable)
    assert here.installed
    assert here.versions == other.versions
    assert here.versions["python"] == sys.version.split()[0]


def test_an_installed_version_that_is_none_is_told_of(monkeypatch):
    """The rest of the environment is answered."""
    found = {"peft": "banana", "trl": "0.24.0"}
    monkeypatch.setattr(requirements, "_this", lambda _: (found, {"python_full_version": "3.11.7"}))
    assert pins(asked()) == {"trl": "0.24.0"}
    assert asked().notes == ["peft banana is not a valid version; left out"]


def test_markers_are_those_of_the_interpreter_that_is_named(tmp_path):
    """A file is read for that one."""
    other = tmp_path / "python"
    answer = json.dumps([{}, {"python_version": "3.99", "python_full_version": "3.99.1"}])
    other.write_text(f"#!/bin/sh\necho noise\necho '{answer}'\n")
    other.chmod(0o755)
    word = 'peft==0.19.1; python_version == "3.99"'
    assert pins(asked(words=[word], python=str(other))) == {"peft": "0.19.1"}
    assert pins(asked(words=[word])) == {}


def test_a_constraint_pins_only_what_is_required(tmp_path):
    """And files that name each other are read once."""
    (tmp_path / "a.txt").write_text("-r b.txt\npeft\n")
    (tmp_path / "b.txt").write_text("-r a.txt\n-c c.txt\n")
    (tmp_path / "c.txt").write_text("peft==0.19.1\ntransformers==5.5.0\n")
    assert pins(asked(tmp_path / "a.txt")) == {"peft": "0.19.1"}


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("r.txt", "transformers==5.5.0 oops\n", "'transformers==5.5.0 oops' is not a valid requirement"),
        ("r.txt", "transformers==5.5.0\ntransformers==5.24.0\n", ":2: transformers is pinned to 5.24.0, but"),
        ("r.txt", "transformers===banana\n", "transformers banana is not a valid version"),
        ("r.txt", "-r missing.txt\n", "missing.txt cannot be read: No such file"),
        ("r.txt", b"\xff\xfe\x00", "it is not text in UTF-8"),
        ("uv.lock", "[[package]\n", "uv.lock cannot be parsed: "),
        ("pyproject.toml", "[project]\nname = 'x'\n", "is neither a pylock.toml nor a uv.lock nor"),
        ("uv.lock", "[[package]]\nversion = '1'\n", "has a package without a name"),
        ("uv.lock", "package = 3\n", "has a package without a name"),
        ("pylock.toml", 'lock-version = "1.0"\n[[packages]]\nname = "peft"\nversion = "1"\nmarker = "x"\n',
         "pylock.toml:3: the marker 'x' cannot be evaluated"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_one_line(tmp_path, name, text, words):
    """The file, the line where there is one, and why."""
    file = tmp_path / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(Unreadable) as caught:
        asked(file)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_nothing_of_the_current_folder_is_run_in_the_interpreter_that_is_asked(tmp_path, monkeypatch):
    """No file there that is called like a module of Python's."""
    for name in ("json", "platform", "importlib"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(9)")
    monkeypatch.chdir(tmp_path)
    assert asked(python=sys.executable).versions["python"] == sys.version.split()[0]


@pytest.mark.parametrize("python", ["/no/such/python", "/bin/true"])
def test_a_python_that_does_not_answer_is_told_of(python):
    """It does not exist, or says nothing."""
    with pytest.raises(Unreadable, match=python):
        asked(python=python)
