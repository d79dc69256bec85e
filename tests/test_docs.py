"""README and docs say what the code says."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest

from zoo_hooks import OFF_WORDS, catalogue, settings
from zoo_hooks.model import Status
from zoo_hooks.releases import retired_by
from zoo_hooks.tool import atlas, cli

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def renderer():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "docs")
        yield importlib.import_module("render_catalogue")


def page(name):
    return (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")


def forms(text):
    return re.findall(r"ZOO_HOOKS='?([^`'\s]+)", text)


def test_what_is_made_from_the_patches_is_as_they_are(renderer):
    """The README's table, the sets of targets, mypy's list: one command renews them."""
    patches, sources = catalogue.everything(), renderer.render_sources
    stale = "run: python docs/render_catalogue.py --write"
    assert renderer.with_table(README, renderer.table(patches)) == README, stale
    for file, render in ((sources.START_UP, sources.with_targets), (sources.PROJECT, sources.with_untyped)):
        text = file.read_text(encoding="utf-8")
        assert render(text, patches) == text, stale
        assert render(text, patches[:-1]) != text


@pytest.fixture
def said(monkeypatch):
    """What is warned of."""
    messages = []
    settings._parse.cache_clear()
    monkeypatch.setattr(settings.notices, "say", lambda _, message: messages.append(message))
    yield messages
    settings._parse.cache_clear()


def test_the_readme_names_every_form_of_the_variable(monkeypatch, said):
    """Each form there is valid, and there is one of each kind."""
    seen = []
    for form in forms(README):
        monkeypatch.setenv("ZOO_HOOKS", form)
        seen.append(settings.read())
    assert not said
    assert settings.Settings() in seen
    for kind in ("off", "dry_run", "only", "without"):
        assert any(getattr(one, kind) for one in seen), kind
    assert "ZOO_HOOKS_STRICT=1" in README


def test_each_value_on_the_page_of_switches_is_understood(monkeypatch, said):
    """The first column of its table, but for what a user has not set."""
    rows = re.findall(r"^\| (.+?) \|", page("switching-off"), re.MULTILINE)
    values = [value for row in rows for value in re.findall(r"`([^`]+)`", row)]
    assert {"none", "dry-run", "-peft/*"} <= set(values)
    for value in values:
        monkeypatch.setenv("ZOO_HOOKS", value)
        settings.read()
    assert not said


@pytest.mark.parametrize("where", ["README", "switching-off"])
def test_every_word_that_switches_on_or_off_is_documented(where):
    """The words are those of the code."""
    text = README if where == "README" else page(where)
    named = set(re.findall(r"`(?:ZOO_HOOKS=)?(\w+)`", text))
    assert named >= {"0", "off", "false", "no", "none", "1", "on", "true", "yes"}
    assert named & {"0", "off", "none"} <= OFF_WORDS
    assert named & {"1", "on", "yes"} <= settings.ON_WORDS


def test_a_wrong_form_in_the_readme_would_be_seen(monkeypatch, said):
    """The checks above rest on the warning for words that mean nothing."""
    monkeypatch.setenv("ZOO_HOOKS", forms("`ZOO_HOOKS='-no-such-*'`")[0])
    settings.read()
    assert "no setting and no patch" in said[0]


def test_the_catalogue_has_each_patch_with_its_report_and_verdicts(renderer):
    """Rendered from the records, the docstrings and the recorded verdicts."""
    measured = atlas.read()
    made = renderer.page(catalogue.everything(), measured)
    for patch in catalogue.everything():
        _, _, entry = made.partition(f"\n### {patch.id}\n")
        entry = entry.partition("\n### ")[0]
        wanted = [patch.title, patch.measures, *patch.affects, *patch.links, *patch.targets]
        wanted += [
            f"Severity: {patch.severity}",
            f"First seen on {atlas.words(measured.first_seen(patch.id))}",
        ]
        wanted += [f"`{end}`" for end in retired_by(patch)]
        wanted += [f"#### {section}" for section in ("Symptom", "Cause", "Repair", "Verdicts")]
        wanted += [version for row in measured.of(patch.id) for version in row.releases.values()]
        assert [text for text in wanted if text not in entry] == []


def test_every_command_has_a_section(capsys, monkeypatch):
    """And its help names no other."""
    monkeypatch.setattr(sys, "argv", ["zoo-hooks"])
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    commands = re.findall(r"^    (\w+) ", capsys.readouterr().out, flags=re.MULTILINE)
    sections = re.findall(r"^## (\w+)$", page("command-line"), flags=re.MULTILINE)
    assert sections == commands


def test_every_status_is_explained():
    """In the table of "How it works"."""
    assert re.findall(r"^\| ([A-Z_]+) \|", page("how-it-works"), flags=re.MULTILINE) == list(
        Status.__members__
    )


ROW = re.compile(r"^([a-z0-9/_-]+) +[\d.]+ +APPLIED +(.+?)(?:  .*)?$", re.MULTILINE)


def test_outputs_that_are_shown_have_the_titles_and_the_number_of_patches():
    """Rows of what is APPLIED begin with words of the patch's title; ``check`` counts them all."""
    pages = "".join(file.read_text() for file in (ROOT / "docs").glob("*.md"))
    rows = ROW.findall(pages)
    assert {patch for patch, _ in rows} >= {
        "transformers/cache-static-zero-shared",
        "transformers/gemma4-mlp-fp16",
    }
    for patch, words in rows:
        assert catalogue.get(patch).title.startswith(words)
    assert re.findall(r"^(\d+) patches, 0 FAILED", pages, re.MULTILINE) == [str(len(catalogue.ids()))]
