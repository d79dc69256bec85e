"""README and docs say what the code says."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import render_atlas
import render_catalogue as renderer
from packaging.utils import canonicalize_name

from zoo_hooks import OFF_WORDS, catalogue, settings
from zoo_hooks.model import Status
from zoo_hooks.releases import fixed_in
from zoo_hooks.tool import atlas, cli
from zoo_hooks.tool.atlas import Atlas, Seen

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def page(name):
    return (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")


def forms(text):
    return re.findall(r"ZOO_HOOKS='?([^`'\s]+)", text)


def test_what_is_made_from_the_patches_is_as_they_are():
    """The README's table, the targets, mypy's list: one command renews them."""
    patches, sources = catalogue.everything(), renderer.render_sources
    stale = "run: python docs/render_catalogue.py --write"
    assert renderer.with_table(README, renderer.table(patches)) == README, stale
    for file, render in sources.FILES.items():
        text = file.read_text(encoding="utf-8")
        assert render(text, patches) == text, stale
        assert render(text, patches[:-1]) != text
    assert renderer.with_table(README, renderer.table(patches[1:])) != README


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


def test_the_catalogue_has_a_page_for_each_patch_with_its_report_and_verdicts():
    """Rendered from the records, the docstrings and the recorded verdicts; the index links them all."""
    measured = atlas.read()
    made = renderer.pages(catalogue.everything(), measured)
    assert set(made) == {"catalogue.md", *(f"catalogue/{patch}.md" for patch in catalogue.ids())}
    for patch in catalogue.everything():
        entry = made[f"catalogue/{patch.id}.md"]
        wanted = [f"# {patch.id}\n", patch.title, patch.measures]
        wanted += [*patch.affects, *patch.links, *patch.targets]
        wanted += [
            f"Severity: {patch.severity}",
            f"First seen on {atlas.words(measured.first_seen(patch.id))}",
        ]
        wanted += [f"`{end}`" for end in fixed_in(patch)]
        wanted += [f"## {section}" for section in ("Symptom", "Cause", "Repair", "Verdicts")]
        wanted += [version for row in measured.of(patch.id) for version in row.releases.values()]
        wanted += [
            f"- Newest release measured: {canonicalize_name(patch.upstream)} ",
            f"atlas.html#{patch.id}",
        ]
        assert [text for text in wanted if text not in entry] == []
        assert f"[{patch.id}](catalogue/{patch.id}.md)" in made["catalogue.md"]


def seen(verdict, without=None, repaired=None, **releases):
    return Seen(releases, verdict, without, repaired)


@pytest.fixture
def measured():
    """Some releases of a patch that needs transformers alone, and of one that needs two libraries."""
    made = Atlas()
    made.released["peft"] = {"0.19.0": "2026-04-14", "0.21.2": "2026-11-01"}
    for row in (
        seen("FIXED", peft="0.21.2", transformers="5.23.0"),
        seen("AFFECTED", "8", "0", peft="0.21.2", transformers="5.24.0"),
        seen("ABSENT", peft="0.19.0"),
    ):
        made.put("peft/shadow-cache-dropped", row)
    made.put("transformers/gemma4-mlp-fp16", seen("AFFECTED", "nan", "0.00051", transformers="5.5.0"))
    return made


def test_a_page_tells_the_figures_and_what_the_newest_release_says(measured):
    """The newest release stands first, and what releases of the other library share stands in one row."""
    patch = catalogue.get("peft/shadow-cache-dropped")
    assert render_atlas.verdicts(patch, measured) == (
        ("peft", "came out", "with", "the probe says", "without zoo-hooks", "with zoo-hooks"),
        [
            ("0.21.2", "2026-11-01", "transformers 5.24.0", "AFFECTED", "`8`", "`0`"),
            ("0.21.2", "2026-11-01", "transformers 5.23.0", "FIXED", "not run", "not run"),
            ("0.19.0", "2026-04-14", "alone", "ABSENT", "not run", "not run"),
        ],
    )
    assert render_atlas.facts(patch, measured) == [
        "- Newest release measured: peft 0.21.2 with transformers 5.24.0, AFFECTED",
    ]


def test_a_cell_of_the_atlas_sums_up_its_pairs(measured):
    """The worst verdict, how many have it, and its figures; the details list all."""
    made = render_atlas.grid([catalogue.get("peft/shadow-cache-dropped")], measured)
    assert (
        '<td class="AFFECTED some" aria-label="AFFECTED on peft 0.21.2, in 1 of 2 pairs; '
        'without zoo-hooks 8, with 0" '
        'data-pairs="AFFECTED (8 without, 0 with): transformers 5.24.0\nFIXED: transformers 5.23.0">✗</td>'
        '<td class="ABSENT" aria-label="ABSENT on peft 0.19.0">∅</td>'
    ) in made


def test_each_verdict_has_a_colour_a_sign_and_a_meaning():
    """In the legend, in both colour schemes, and in the order in which a cell chooses."""
    style = (ROOT / "docs" / "_static" / "atlas.css").read_text(encoding="utf-8")
    assert set(render_atlas.WORST) == set(render_atlas.MEANING) == set(atlas.VERDICTS)
    assert len({sign for sign, _ in render_atlas.MEANING.values()}) == len(atlas.VERDICTS)
    for verdict in atlas.VERDICTS:
        assert f".{verdict} {{" in style
        assert style.count(f"--{verdict.lower()}:") == 3


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


ROW = re.compile(r"^(\w+/[\w-]+)  APPLIED  5.5.0\n    (.*?);", re.MULTILINE)


def test_outputs_that_are_shown_have_the_titles_of_patches():
    """Records of what is APPLIED begin with the patch's title."""
    pages = "".join(file.read_text() for file in (ROOT / "docs").glob("*.md"))
    rows = ROW.findall(pages)
    assert {patch for patch, _ in rows} >= {
        "transformers/cache-static-zero-shared",
        "transformers/gemma4-mlp-fp16",
    }
    for patch, words in rows:
        assert catalogue.get(patch).title.startswith(words)
