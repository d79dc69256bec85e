"""Which known bug a traceback shows, and why the hooks did not repair it."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
from conftest import HERE, child
from public_tracebacks import PUBLIC
from unrelated import unrelated

from zoo_hooks import catalogue
from zoo_hooks.tool import atlas, audit, cli, explain
from zoo_hooks.tool.pins import Asked, Pin

RECORDED = {file.stem.replace("__", "/"): file for file in sorted((HERE / "tracebacks").glob("*.txt"))}
QUIET = {"dill/free-rlock-restored-taken", "torch/compiled-autograd-entered-twice"}
"""Crashes that raise nothing: they hang."""
PUBLIC_ONLY = {patch for _, _, patch in PUBLIC if patch} - RECORDED.keys()


def ids(text):
    return [patch.id for patch in explain.explained(explain.read(text))]


def answer(**versions):
    known = audit.known(atlas.read())
    asked = Asked("a test", known, {"python_full_version": "3.11.7"}, installed=True)
    asked.pins = {name: Pin(version) for name, version in {"python": "3.11.7", **versions}.items()}
    return audit.audit(asked, atlas.read())


@pytest.mark.parametrize("patch", RECORDED)
def test_the_recorded_error_of_a_bug_is_explained_by_its_patch_alone(patch):
    """As its canary, or a user, got it; frames without their source lines."""
    assert ids(RECORDED[patch].read_text(encoding="utf-8")) == [patch]


def test_each_crash_has_a_recorded_error_or_a_public_one():
    """But for those that hang."""
    crashes = {patch.id for patch in catalogue.everything() if patch.severity == "crash"}
    assert crashes - QUIET <= RECORDED.keys() | PUBLIC_ONLY
    assert all(catalogue.get(patch).symptoms for patch in crashes - QUIET)


@pytest.mark.parametrize(("link", "text", "patch"), PUBLIC, ids=[link[19:] for link, _, _ in PUBLIC])
def test_errors_reported_in_public_are_told_apart(link, text, patch):
    """Those of a bug are explained by it; those of others with the same words by none."""
    assert ids(text) == ([patch] if patch else [])


def test_two_hundred_unrelated_tracebacks_are_not_explained():
    """Common errors of the same libraries, and those of our bugs in places that are not theirs."""
    some = list(unrelated())
    assert len(some) >= 200
    assert [(place, text) for place, text in some if ids(text)] == []


TRACE = RECORDED["peft/prefix-tuning-heads"].read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "".join(f"[rank3]: {line}\n" for line in text.splitlines()),
        lambda text: "".join(f"stderr: [rank3]: {line}\n" for line in text.splitlines()),
        lambda text: "".join(f"(Worker pid=17) {line}\n" for line in text.splitlines()),
        lambda text: text.replace("ValueError", "\x1b[31mValueError\x1b[39m"),
        lambda text: text.replace("\n", "\r\n"),
        lambda text: (
            f"step 1\n{text}\nDuring handling of the above exception, another exception occurred:\n{text}"
        ),
    ],
    ids=["rank", "stderr", "ray", "colours", "Windows", "chained"],
)
def test_what_launchers_put_around_a_traceback_does_not_hide_it(change):
    """Ranks, names of processes, colours, other ends of lines."""
    assert ids(change(TRACE)) == ["peft/prefix-tuning-heads"]


@pytest.mark.parametrize(
    "frame",
    [
        "File /venv/lib/python3.11/site-packages/peft/peft_model.py:37, in <module>",
        "[/venv/lib/python3.11/site-packages/peft/peft_model.py](https://localhost:8080/#) in <module>",
        "│ /venv/lib/python3.11/site-packages/peft/peft_model.py:37 in <module>      │",
        r'  File "C:\venv\Lib\site-packages\peft\peft_model.py", line 37, in <module>',
    ],
    ids=["notebook", "Colab", "rich", "Windows"],
)
def test_frames_are_read_in_each_form(frame):
    """A symptom that names a frame is found where IPython, Colab, rich or Windows shows it."""
    assert ids(f"{frame}\nImportError: cannot import name 'HybridCache' from 'transformers'\n") == [
        "peft/hybrid-cache-import"
    ]


def test_words_in_a_source_line_are_no_error():
    """A frame that shows a line of code with a bug's words."""
    code = (
        "    raise ValueError('Model does not support past key values which are required for prefix tuning')"
    )
    text = f'Traceback (most recent call last):\n  File "/x/a.py", line 1, in f\n{code}\nKeyError: 1\n'
    assert ids(text) == []


def test_the_nearest_bug_is_named_where_none_fits():
    """The same words without the frames; none for what is like nothing."""
    text = "ImportError: cannot import name 'HybridCache' from 'transformers'"
    assert ids(text) == []
    assert explain.nearest(explain.read(text)).id == "peft/hybrid-cache-import"
    assert explain.nearest(explain.read("ZeroDivisionError: division by zero")) is None


def why(patch, found, text=""):
    return explain.why_not(catalogue.get(patch), found, explain.read(text))


BUG = "transformers/attn-mask-utils-gone"


def test_a_repair_that_was_off_says_so(monkeypatch):
    """Whole, or for this patch."""
    monkeypatch.setenv("ZOO_HOOKS", "0")
    assert why(BUG, answer(transformers="5.24.0")) == "switched off by ZOO_HOOKS"
    monkeypatch.setenv("ZOO_HOOKS", "-attn-mask-utils-gone")
    assert why(BUG, answer(transformers="5.24.0")) == "excluded by ZOO_HOOKS"


def test_a_repair_that_came_too_late_says_what_to_do(monkeypatch):
    """activate() repairs what is loaded, but not what had to be repaired before its body ran."""
    monkeypatch.delenv("ZOO_HOOKS", raising=False)
    assert "zoo_hooks.activate()" in why("cache-layer-dtype", answer(transformers="5.24.0"))
    said = why("hybrid-cache-import", answer(transformers="5.24.0", peft="0.17.1"))
    assert "was imported before zoo-hooks could see it" in said
    assert "activate()" not in said


def test_other_releases_than_those_of_the_error_are_told_of():
    """What is installed now does not have the bug."""
    assert "do not have this bug" in why(BUG, answer(transformers="5.23.0"))


def test_an_environment_without_zoo_hooks_is_told_of(tmp_path):
    """By the folder that the frames lie in; one that is not on this machine too."""
    site = tmp_path / "lib" / "site-packages"
    frame = f'  File "{site}/transformers/x.py", line 1, in f\n'
    assert "not on this machine" in why(BUG, answer(transformers="5.24.0"), frame)
    site.mkdir(parents=True)
    assert why(BUG, answer(transformers="5.24.0"), frame) == f"zoo-hooks is not installed in {site}"
    (site / "zoo_hooks.pth").touch()
    assert "--python" in why(BUG, answer(transformers="5.24.0"), frame)


def test_an_upstream_that_is_not_here_is_told_of():
    """The error is another environment's."""
    assert "transformers is not installed in a test" in why(BUG, answer())


@pytest.mark.parametrize("way", ["file", "standard input"])
def test_the_command_reads_a_file_or_standard_input(way, tmp_path, monkeypatch, capsys):
    """Bug, reason and upgrade; JSON has the links too."""
    file = tmp_path / "trace.txt"
    file.write_text(TRACE, encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", io.StringIO(TRACE))
    arguments = [str(file)] if way == "file" else []
    assert cli.main(["explain", *arguments]) == 0
    said = capsys.readouterr().out
    assert said.startswith("peft/prefix-tuning-heads: ")
    assert "Why it did not: " in said
    assert cli.main(["explain", "--json", *([str(file)])]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["schema"] == 1
    assert told["bugs"][0]["id"] == "peft/prefix-tuning-heads"
    assert told["nearest"] is None


def test_bytes_that_are_no_text_do_not_hide_an_error(tmp_path, capsys):
    """A log can hold anything."""
    file = tmp_path / "log.txt"
    file.write_bytes(b"\xff\xfe\x00 10%|\xe2\x96\n" + TRACE.encode())
    assert cli.main(["explain", str(file)]) == 0
    assert capsys.readouterr().out.startswith("peft/prefix-tuning-heads: ")


def test_an_error_that_is_not_known_ends_with_1_and_a_file_that_is_not_there_with_2(tmp_path, capsys):
    """One line each."""
    file = tmp_path / "trace.txt"
    file.write_text("ZeroDivisionError: division by zero\n", encoding="utf-8")
    assert cli.main(["explain", str(file)]) == 1
    assert capsys.readouterr().out == "no known bug matches this error\n"
    for missing in (str(tmp_path / "none.txt"), str(tmp_path)):
        assert cli.main(["explain", missing]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    file.write_text("  \n", encoding="utf-8")
    assert cli.main(["explain", str(file)]) == 2


def test_no_upstream_is_imported():
    """Neither by explaining nor by asking for the environment."""
    script = f"""
        import sys
        from zoo_hooks import catalogue
        from zoo_hooks.tool.cli import main
        main(["explain", {str(RECORDED["peft/prefix-tuning-heads"])!r}])
        print(sorted(set(catalogue.upstreams()) & sys.modules.keys()))
    """
    assert child(script).stdout.splitlines()[-1] == "[]"
    assert Path(RECORDED["peft/prefix-tuning-heads"]).exists()
